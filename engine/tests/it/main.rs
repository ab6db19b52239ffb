//! The real engine process, told over its control socket, called over TCP.

mod compiling;
mod harness;
mod running;
