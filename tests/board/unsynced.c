/* Preloaded into the gateway on the board, to see the test go red: what it syncs it takes for synced. */

int fsync(int file);
int fdatasync(int file);

int fsync(int file) {
  (void)file;
  return 0;
}

int fdatasync(int file) {
  (void)file;
  return 0;
}
