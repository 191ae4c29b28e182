# What building for aarch64-unknown-linux-gnu needs beside Rust, which cross brings along.
# The binary then asks for the C library of Debian 12 or older: boards have that or a newer one.
FROM debian:bookworm-slim

RUN apt-get update \
 && DEBIAN_FRONTEND=noninteractive apt-get install -y --no-install-recommends \
      ca-certificates gcc g++ libc6-dev make perl pkg-config \
      gcc-aarch64-linux-gnu g++-aarch64-linux-gnu \
 && rm -rf /var/lib/apt/lists/*

# librdkafka's configure is given no compiler by its crate, so these are the plain names.
ENV CC=aarch64-linux-gnu-gcc CXX=aarch64-linux-gnu-g++ AR=aarch64-linux-gnu-ar RANLIB=aarch64-linux-gnu-ranlib
ENV HOST_CC=gcc HOST_CXX=g++ HOST_AR=ar
ENV CARGO_TARGET_AARCH64_UNKNOWN_LINUX_GNU_LINKER=aarch64-linux-gnu-gcc
