//! Start, run and drain: the one place that spawns tasks and threads.
