//! What the object carries besides programs: constants the agent fills in before load,
//! the ABI's symbol, the licence, and the panic handler that a `no_std` binary must have.
//!
//! The constants are frozen before the first program is loaded, so the verifier knows
//! their values: code for fields a kernel does not have is pruned, not executed.

use sidestep_abi::Offsets;

/// Offsets of kernel fields, written by the agent before load.
#[unsafe(no_mangle)]
pub(crate) static OFFSETS: Offsets = Offsets::NONE;

/// Its name is the ABI version; the agent refuses an object without it.
#[unsafe(no_mangle)]
static SIDESTEP_ABI_8: u32 = 0;

/// Several helpers are only for programs under the GPL or a licence that names it.
#[unsafe(link_section = "license")]
#[unsafe(no_mangle)]
static LICENSE: [u8; 13] = *b"Dual MIT/GPL\0";

/// Never called: every index is bounded and every option matched, and the verifier would
/// refuse the loop.
#[panic_handler]
#[allow(
    unreachable_pub,
    reason = "a private handler is dropped and the binary does not link"
)]
pub fn panic(_info: &core::panic::PanicInfo<'_>) -> ! {
    loop {}
}
