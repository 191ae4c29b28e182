//! A sensor node: samples, keeps what it sampled until the gateway has it on disk, and blinks while
//! it had to give something up.
//!
//! An example to start from, and the far end of the gateway's own tests, where it runs on an emulated
//! Stellaris LM3S6965 (Cortex-M3) whose UART is a pseudo-terminal. It runs on the board as well.
//!
//! ```text
//!  sensor ──▶ node: SenML ──▶ ring of 8 ──▶ frame ──▶ UART ──▶ gateway
//!               ▲ TIME          ▲ ACK ◀──────────────── UART ◀──┘
//! ```
//!
//! - [`node`] is what a product would keep: no register, no interrupt, bytes and milliseconds.
//! - [`board`] is what a product would replace: clock, UART, LED.
//! - [`registers`] is the one place with `unsafe`.
//!
//! One loop does everything and sleeps between the ticks of a millisecond. A tick is 11.5 bytes at
//! 115,200 baud, and the UART keeps 16, so that nothing needs an interrupt but the tick. There is no
//! allocator. Flash and RAM are limited by `memory.x`, to 16 KiB and 4 KiB, stack included.

#![no_std]
#![no_main]

mod board;
mod node;
mod registers;
mod sensor;

use cortex_m_rt::entry;
use panic_halt as _;

use board::Board;
use node::Node;

#[entry]
fn main() -> ! {
    static mut NODE: Node = Node::new();

    let mut board = Board::start();
    NODE.begin_session(board.session());
    loop {
        let now_ms = board.now_ms();
        while let Some(byte) = board.receive() {
            NODE.hear(byte, now_ms);
        }
        NODE.sample(now_ms);
        while board.can_send() {
            let Some(byte) = NODE.next_byte(now_ms) else {
                break;
            };
            board.send(byte);
        }
        if board.has_sent() {
            NODE.line_idle(now_ms);
        }
        board.set_led(NODE.led(now_ms));
        board.sleep();
    }
}
