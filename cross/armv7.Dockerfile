# What building for armv7-unknown-linux-gnueabihf needs beside Rust, which cross brings along.
# The binary then asks for the C library of Debian 12 or older: boards have that or a newer one.
FROM debian:bookworm-slim

RUN apt-get update \
 && DEBIAN_FRONTEND=noninteractive apt-get install -y --no-install-recommends \
      ca-certificates gcc g++ libc6-dev make perl pkg-config \
      gcc-arm-linux-gnueabihf g++-arm-linux-gnueabihf \
 && rm -rf /var/lib/apt/lists/*

# librdkafka's configure is given no compiler by its crate, so these are the plain names.
ENV CC=arm-linux-gnueabihf-gcc CXX=arm-linux-gnueabihf-g++ AR=arm-linux-gnueabihf-ar RANLIB=arm-linux-gnueabihf-ranlib
ENV HOST_CC=gcc HOST_CXX=g++ HOST_AR=ar
ENV CARGO_TARGET_ARMV7_UNKNOWN_LINUX_GNUEABIHF_LINKER=arm-linux-gnueabihf-gcc
