//! Functions of which glibc has a newer version than the machines that a built binary is copied to: the old one is linked.

// hypot and hypotf got new symbol versions in glibc 2.35, where only what they do to errno changed, which nobody reads
// here. Hidden, so that the drivers that are loaded keep their own.
std::arch::global_asm!(
    ".symver hypot_2_2_5, hypot@GLIBC_2.2.5",
    ".symver hypotf_2_2_5, hypotf@GLIBC_2.2.5",
    ".pushsection .text.hypot,\"ax\",@progbits",
    ".globl hypot, hypotf",
    ".hidden hypot, hypotf",
    ".type hypot, @function",
    ".type hypotf, @function",
    "hypot: jmp *hypot_2_2_5@GOTPCREL(%rip)",
    "hypotf: jmp *hypotf_2_2_5@GOTPCREL(%rip)",
    ".popsection",
    options(att_syntax)
);
