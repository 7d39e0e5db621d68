//! The words of a filter of system calls, for those who write one by hand. A profile of OCI's becomes one in `duet-seccomp`.

use libc::{
    BPF_ABS, BPF_ALU, BPF_AND, BPF_JMP, BPF_K, BPF_LD, BPF_RET, BPF_W, SECCOMP_RET_ERRNO, c_int,
    c_long,
};

pub use duet_step::Insn;
pub use libc::{BPF_JEQ, BPF_JGE, BPF_JSET};
pub use libc::{SECCOMP_RET_ALLOW as ALLOW, SECCOMP_RET_KILL_PROCESS as KILL};

/// Where the kernel's `struct seccomp_data` has the number of the call.
pub const NUMBER: u32 = 0;
/// Where it has the way into the kernel.
pub const ARCHITECTURE: u32 = 4;

/// `AUDIT_ARCH_*` of this program: the other ways into the kernel have other numbers for everything.
pub const ARCH: u32 = if cfg!(target_arch = "x86_64") {
    0xc000_003e
} else {
    0xc000_00b7
};

/// Where x86-64's second table of calls begins (`__X32_SYSCALL_BIT`); no call elsewhere has such a number.
pub const X32: u32 = 0x4000_0000;

/// Where it has the low half of an argument, on a little-endian machine. Most arguments have no other half.
#[must_use]
pub const fn argument(index: u32) -> u32 {
    16 + 8 * index
}

/// A call as it is compared.
#[must_use]
pub fn number(call: c_long) -> u32 {
    u32::try_from(call).unwrap_or(u32::MAX)
}

/// Takes what is at `offset` of `struct seccomp_data`, for the instructions that follow.
#[must_use]
pub fn load(offset: u32) -> Insn {
    insn(BPF_LD | BPF_W | BPF_ABS, 0, 0, offset)
}

/// Keeps only `bits` of it.
#[must_use]
pub fn mask(bits: u32) -> Insn {
    insn(BPF_ALU | BPF_AND | BPF_K, 0, 0, bits)
}

/// Asks it for `test` ([`BPF_JEQ`], [`BPF_JGE`] or [`BPF_JSET`]) of `value`, and leaves out so many instructions.
#[must_use]
pub fn jump(test: u32, value: u32, yes: u8, no: u8) -> Insn {
    insn(BPF_JMP | test | BPF_K, yes, no, value)
}

/// Ends with a verdict: [`ALLOW`], [`KILL`] or one of [`refused`].
#[must_use]
pub fn answer(verdict: u32) -> Insn {
    insn(BPF_RET | BPF_K, 0, 0, verdict)
}

/// The verdict that the call fails with `errno`.
#[must_use]
pub const fn refused(errno: c_int) -> u32 {
    SECCOMP_RET_ERRNO | errno.cast_unsigned()
}

/// In a block of [`decide`], a way to the beginning of the one with this index. No other way in it is longer than 200.
#[must_use]
pub const fn to(block: u8) -> u8 {
    u8::MAX - block
}

/// A filter for this machine's calls: of call `n` the block `which[n]` decides, of all that are beyond it the last.
///
/// Whoever comes another way into the kernel is killed. The number is found in seven or eight steps, and not by one
/// comparison after the other: the kernel asks the program about each call when it is installed. A block
/// begins with the number loaded, and ends with an answer, or ways [to] others.
///
/// # Panics
///
/// If one is more than 255 instructions away, which is how far a jump goes; or if there is no such block.
#[must_use]
pub fn decide(blocks: &[Vec<Insn>], which: &[u8]) -> Vec<Insn> {
    let runs: Vec<(usize, u8)> = (0..which.len())
        .filter(|&at| at == 0 || which[at] != which[at - 1])
        .map(|at| (at, which[at]))
        .collect();
    let mut nodes = Vec::with_capacity(runs.len());
    plant(&runs, &mut nodes);
    let mut program = vec![
        load(ARCHITECTURE),
        jump(BPF_JEQ, ARCH, 1, 0),
        answer(KILL),
        load(NUMBER),
    ];
    let first = program.len();
    // The ways to others go forwards only: the first blocks, which most lead to, are the last in the program.
    let mut places = vec![0; blocks.len()];
    let mut end = first + nodes.len();
    for (place, block) in places.iter_mut().zip(blocks).rev() {
        *place = end;
        end += block.len();
    }
    program.reserve(end);
    let way = |from: usize, to: usize| u8::try_from(to - from - 1).expect("it is near");
    for node in nodes {
        let at = program.len();
        let to = |to: End| {
            way(
                at,
                match to {
                    End::Node(node) => first + node,
                    End::Block(block) => places[usize::from(block)],
                },
            )
        };
        program.push(jump(
            BPF_JGE,
            node.from,
            to(node.from_there),
            to(node.below),
        ));
    }
    for block in blocks.iter().rev() {
        for insn in block {
            let at = program.len();
            let to = |offset: u8| match places.get(usize::from(u8::MAX - offset)) {
                Some(place) if offset > 200 => way(at, *place),
                Some(_) | None => offset,
            };
            let (jt, jf) = (to(insn.jt), to(insn.jf));
            program.push(Insn { jt, jf, ..*insn });
        }
    }
    program
}

/// One question about a number, and what is asked next.
struct Node {
    from: u32,
    below: End,
    from_there: End,
}

enum End {
    Node(usize),
    Block(u8),
}

/// Appends the questions that tell `runs` apart, and says where to begin.
fn plant(runs: &[(usize, u8)], nodes: &mut Vec<Node>) -> End {
    let (below, rest) = runs.split_at(runs.len() / 2);
    let [(from, block), ..] = *rest else {
        return End::Block(0);
    };
    if below.is_empty() {
        return End::Block(block);
    }
    let at = nodes.len();
    let from = u32::try_from(from).unwrap_or(u32::MAX);
    let placeholder = || End::Block(0);
    nodes.push(Node {
        from,
        below: placeholder(),
        from_there: placeholder(),
    });
    let (below, from_there) = (plant(below, nodes), plant(rest, nodes));
    nodes[at] = Node {
        from,
        below,
        from_there,
    };
    End::Node(at)
}

fn insn(code: u32, jt: u8, jf: u8, k: u32) -> Insn {
    Insn {
        code: u16::try_from(code).unwrap_or(u16::MAX),
        jt,
        jf,
        k,
    }
}
