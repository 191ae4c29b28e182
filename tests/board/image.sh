#!/usr/bin/env bash
# Makes what the emulated board boots, once, and prints the directory it is in: root.img, an ext4 file
# system with Debian for arm64, and Debian's own kernel and initrd. Needs root, debootstrap,
# qemu-user-static, a Debian mirror, and a kernel with binfmt_misc; quick and without network when it
# is there.
set -euo pipefail

root="$(cd "$(dirname "${BASH_SOURCE[0]}")/../.." && pwd)"
suite="${1:-bookworm}"
cache="${BOARD_CACHE:-$root/.cache/board}"
image="$cache/$suite-arm64"
mirror="${DEBIAN_MIRROR:-http://deb.debian.org/debian}"
binfmt=/proc/sys/fs/binfmt_misc

# Of the system's programs for arm64 each is run by QEMU, those that it starts too. What this script
# has told the kernel for that it takes back.
emulate() {
  if [[ ! -e "$binfmt/register" ]]; then
    mount -t binfmt_misc binfmt_misc "$binfmt"
  fi
  if [[ ! -e "$binfmt/qemu-aarch64" ]]; then
    cat /usr/lib/binfmt.d/qemu-aarch64.conf > "$binfmt/register"
    undo+=("echo -1 > $binfmt/qemu-aarch64")
  fi
}

in_tree() {
  chroot "$new/tree" /usr/bin/env -i PATH=/usr/sbin:/usr/bin:/sbin:/bin LC_ALL=C.UTF-8 \
    DEBIAN_FRONTEND=noninteractive "$@" >&2
}

install_system() {
  debootstrap --arch=arm64 --variant=minbase \
    --include=systemd,systemd-sysv,udev,dbus,kmod,e2fsprogs,initramfs-tools,qemu-guest-agent \
    "$suite" "$new/tree" "$mirror" >&2
  # The initrd holds what this board's disk takes, not what any board may have.
  sed -i 's/^MODULES=.*/MODULES=list/' "$new/tree/etc/initramfs-tools/initramfs.conf"
  printf '%s\n' virtio_pci virtio_mmio virtio_blk ext4 >> "$new/tree/etc/initramfs-tools/modules"
  echo '/dev/vda / ext4 errors=remount-ro 0 1' > "$new/tree/etc/fstab"
  in_tree apt-get install -y -qq --no-install-recommends linux-image-arm64
}

configure() {
  local tree="$new/tree"
  echo board > "$tree/etc/hostname"
  printf '[Match]\nName=en* eth*\n[Network]\nDHCP=yes\n' > "$tree/etc/systemd/network/80-dhcp.network"
  in_tree systemctl enable systemd-networkd.service qemu-guest-agent.service
  # Emulation is slow, and nobody logs in or upgrades here.
  in_tree systemctl mask getty.target serial-getty@ttyAMA0.service systemd-networkd-wait-online.service \
    apt-daily.timer apt-daily-upgrade.timer dpkg-db-backup.timer e2scrub_all.timer e2scrub_reap.service \
    fstrim.timer
  mkdir -p "$tree/var/log/journal"
  # Every board has an id of its own, from its first boot on.
  : > "$tree/etc/machine-id"
  rm -f "$tree"/var/cache/apt/archives/*.deb "$tree"/var/lib/apt/lists/*_* "$tree/etc/resolv.conf"
}

if [[ ! -d "$image" ]]; then
  mkdir -p "$cache"
  # Beside its place, so that half an image is never taken for one.
  new="$(mktemp -d "$cache/new.XXXXXX")"
  undo=()
  clean() {
    local command
    for command in "${undo[@]}"; do eval "$command"; done
    rm -rf --one-file-system "$new"
  }
  trap clean EXIT
  emulate
  install_system
  configure
  mkdir "$new/image"
  cp -L "$new"/tree/boot/vmlinuz-* "$new/image/vmlinuz"
  cp -L "$new"/tree/boot/initrd.img-* "$new/image/initrd.img"
  truncate --size=1536M "$new/image/root.img"
  mkfs.ext4 -q -L board -d "$new/tree" "$new/image/root.img"
  mv "$new/image" "$image"
fi
echo "$image"
