# Everything that a fresh machine needs: Rust, gcc, make, python3 with pip, npm and root apt are there before.
#   make demo          a real clip, lifted: pictures and files      (CLIP=my.mp4 for your own)
#   make test          all tests of a development machine; what CI runs
#   make test-all      also what is slow and rarely changes
.PHONY: demo test test-all native lint clean help
.DEFAULT_GOAL := help

CLIP ?= .native/clips/demo.mp4
OUT ?= out

help:
	@sed -n 's/^#   //p' Makefile

native:
	scripts/native.sh onnxruntime libtorch nvrtc
	scripts/opencv.sh

# The 2D detector and the sample clip come from their packages; the detector is converted by our own `export`.
demo:
	scripts/native.sh onnxruntime
	scripts/opencv.sh
	cargo build --release -p export -p demo
	EXPORT=$(CURDIR)/target/release/export scripts/blazepose.sh
	scripts/clip.sh
	target/release/demo --video "$(CLIP)" --out "$(OUT)"

test: native
	cargo test --workspace --no-run
	EXPORT=$(CURDIR)/target/debug/export scripts/blazepose.sh
	scripts/clip.sh
	cargo test --workspace --no-fail-fast

test-all: test
	tests/python/run.sh
	tests/page/run.sh

lint:
	cargo fmt --all --check
	cargo clippy --workspace --all-targets -- -D warnings
	RUSTDOCFLAGS="-D warnings" cargo doc --workspace --no-deps

clean:
	cargo clean
	rm -rf out
