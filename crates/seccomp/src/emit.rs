//! From tables to BPF: ranges, a binary search over them, and the comparisons of arguments.
//!
//! Every piece of code below ends in a return and jumps only forward within itself, so pieces
//! can be put one after another without fixing anything up.

use duet_step::Insn;
use oci_spec::runtime::LinuxSeccompOperator as Operator;

use crate::Arch;
use crate::names::X32_BIT;
use crate::rules::{Condition, RET_KILL_THREAD, Rule, Table, Verdict};

const LD_ABS: u16 = 0x20;
const JA: u16 = 0x05;
const JEQ: u16 = 0x15;
const JGT: u16 = 0x25;
const JGE: u16 = 0x35;
const AND: u16 = 0x54;
const RET: u16 = 0x06;

/// Offsets in `struct seccomp_data`.
const DATA_NR: u32 = 0;
const DATA_ARCH: u32 = 4;
const DATA_ARGS: u32 = 16;

/// The number a tracer writes to skip a call; it has x32's bit but is not an x32 call.
const NR_SKIPPED: u32 = u32::MAX;

/// Numbers `first ..` up to the next range.
struct Range<'a> {
    first: u32,
    verdict: Answer<'a>,
}

/// What a range answers: one value, or what a call's arguments decide.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Answer<'a> {
    Of(&'a Verdict),
    Plain(u32),
}

/// The program for all tables. A call of another architecture kills the thread, as libseccomp
/// does: its numbers mean something else.
pub(crate) fn program(tables: &[Table]) -> Vec<Insn> {
    let mut code = vec![ret(RET_KILL_THREAD)];
    let x32 = tables.iter().find(|table| table.arch == Arch::X32);
    for table in tables.iter().filter(|table| table.arch != Arch::X32).rev() {
        let mut body = vec![load(DATA_NR)];
        if table.arch == Arch::X86_64 {
            body.extend(split_x32(table, x32));
        } else {
            body.extend(search_table(table));
        }
        code = branch(JEQ, table.arch.audit(), body, code);
    }
    code.insert(0, load(DATA_ARCH));
    code
}

/// x86-64 numbers, and the x32 numbers above them when the profile lists that architecture.
fn split_x32(native: &Table, x32: Option<&Table>) -> Vec<Insn> {
    let above = match x32 {
        Some(table) => search_table(table),
        None => vec![ret(RET_KILL_THREAD)],
    };
    let skipped = vec![ret(native.default)];
    branch(
        JGE,
        X32_BIT,
        branch(JEQ, NR_SKIPPED, skipped, above),
        search_table(native),
    )
}

fn search_table(table: &Table) -> Vec<Insn> {
    search(&ranges(table), table.arch)
}

/// Neighbouring numbers of one verdict become one range; gaps get the default.
fn ranges(table: &Table) -> Vec<Range<'_>> {
    let mut ranges: Vec<Range<'_>> = Vec::new();
    let mut add = |first, verdict| {
        if ranges.last().is_none_or(|last| last.verdict != verdict) {
            ranges.push(Range { first, verdict });
        }
    };
    let mut next = 0;
    for (number, verdict) in &table.verdicts {
        if *number > next {
            add(next, Answer::Plain(table.default));
        }
        add(*number, answer(verdict));
        next = number + 1;
    }
    add(next, Answer::Plain(table.beyond));
    ranges
}

fn answer(verdict: &Verdict) -> Answer<'_> {
    if verdict.rules.is_empty() {
        Answer::Plain(verdict.otherwise)
    } else {
        Answer::Of(verdict)
    }
}

/// A binary search with the number in the accumulator.
fn search(ranges: &[Range<'_>], arch: Arch) -> Vec<Insn> {
    match ranges {
        [] => vec![ret(RET_KILL_THREAD)],
        [range] => leaf(range, arch),
        // One number apart from its neighbours: an equality, not two bounds.
        [low, one, high] if low.verdict == high.verdict && high.first - one.first == 1 => {
            branch(JEQ, one.first, leaf(one, arch), leaf(high, arch))
        }
        ranges => {
            let (below, from) = ranges.split_at(ranges.len() / 2);
            let first = from.first().map_or(0, |range| range.first);
            branch(JGE, first, search(from, arch), search(below, arch))
        }
    }
}

fn leaf(range: &Range<'_>, arch: Arch) -> Vec<Insn> {
    match range.verdict {
        Answer::Plain(value) => vec![ret(value)],
        Answer::Of(verdict) => decide(verdict, arch),
    }
}

/// `if accumulator <op> k { yes } else { no }`. A conditional jump reaches 255 instructions, an
/// unconditional one any number.
fn branch(op: u16, k: u32, yes: Vec<Insn>, no: Vec<Insn>) -> Vec<Insn> {
    let mut code = Vec::with_capacity(yes.len() + no.len() + 2);
    if let Ok(over) = u8::try_from(no.len()) {
        code.push(Insn {
            code: op,
            jt: over,
            jf: 0,
            k,
        });
    } else {
        let over = u32::try_from(no.len()).unwrap_or(u32::MAX);
        code.push(Insn {
            code: op,
            jt: 0,
            jf: 1,
            k,
        });
        code.push(Insn {
            code: JA,
            jt: 0,
            jf: 0,
            k: over,
        });
    }
    code.extend(no);
    code.extend(yes);
    code
}

fn decide(verdict: &Verdict, arch: Arch) -> Vec<Insn> {
    let mut code: Vec<Insn> = verdict
        .rules
        .iter()
        .flat_map(|rule| chain(rule, arch))
        .collect();
    code.push(ret(verdict.otherwise));
    code
}

/// All conditions of a rule and its return; falls out at the end if one does not hold.
fn chain(rule: &Rule, arch: Arch) -> Vec<Insn> {
    let mut code = vec![ret(rule.ret)];
    for condition in rule.conditions.iter().rev() {
        // At most 6 conditions of 6 instructions: it fits.
        let fail = u8::try_from(code.len()).unwrap_or(u8::MAX);
        let mut front = compare(condition, arch, fail);
        front.append(&mut code);
        code = front;
    }
    code
}

/// One comparison: falls through if it holds, else jumps over `fail` more instructions.
fn compare(condition: &Condition, arch: Arch, fail: u8) -> Vec<Insn> {
    let lo_at = DATA_ARGS + 8 * u32::from(condition.index);
    let hi_at = lo_at + 4;
    let (hi, lo) = halves(condition.value);
    let wide = !arch.narrow();
    let jump = |code, k, jt, jf| Insn { code, jt, jf, k };
    match condition.op {
        Operator::ScmpCmpEq if wide => vec![
            load(hi_at),
            jump(JEQ, hi, 0, fail + 2),
            load(lo_at),
            jump(JEQ, lo, 0, fail),
        ],
        Operator::ScmpCmpNe if wide => vec![
            load(hi_at),
            jump(JEQ, hi, 0, 2),
            load(lo_at),
            jump(JEQ, lo, fail, 0),
        ],
        Operator::ScmpCmpGe | Operator::ScmpCmpGt if wide => {
            let last = if condition.op == Operator::ScmpCmpGe {
                JGE
            } else {
                JGT
            };
            vec![
                load(hi_at),
                jump(JGT, hi, 3, 0),
                jump(JEQ, hi, 0, fail + 2),
                load(lo_at),
                jump(last, lo, 0, fail),
            ]
        }
        Operator::ScmpCmpLt | Operator::ScmpCmpLe if wide => {
            let last = if condition.op == Operator::ScmpCmpLt {
                JGE
            } else {
                JGT
            };
            vec![
                load(hi_at),
                jump(JGT, hi, fail + 3, 0),
                jump(JEQ, hi, 0, 2),
                load(lo_at),
                jump(last, lo, fail, 0),
            ]
        }
        Operator::ScmpCmpMaskedEq if wide => {
            let (want_hi, want_lo) = halves(condition.masked & condition.value);
            vec![
                load(hi_at),
                and(hi),
                jump(JEQ, want_hi, 0, fail + 3),
                load(lo_at),
                and(lo),
                jump(JEQ, want_lo, 0, fail),
            ]
        }
        Operator::ScmpCmpEq => vec![load(lo_at), jump(JEQ, lo, 0, fail)],
        Operator::ScmpCmpNe => vec![load(lo_at), jump(JEQ, lo, fail, 0)],
        Operator::ScmpCmpGe => vec![load(lo_at), jump(JGE, lo, 0, fail)],
        Operator::ScmpCmpGt => vec![load(lo_at), jump(JGT, lo, 0, fail)],
        Operator::ScmpCmpLt => vec![load(lo_at), jump(JGE, lo, fail, 0)],
        Operator::ScmpCmpLe => vec![load(lo_at), jump(JGT, lo, fail, 0)],
        Operator::ScmpCmpMaskedEq => {
            let (_, want) = halves(condition.masked & condition.value);
            vec![load(lo_at), and(lo), jump(JEQ, want, 0, fail)]
        }
    }
}

fn halves(value: u64) -> (u32, u32) {
    let low = value & 0xFFFF_FFFF;
    let half = |bits: u64| u32::try_from(bits).unwrap_or(u32::MAX);
    (half(value >> 32), half(low))
}

fn load(offset: u32) -> Insn {
    Insn {
        code: LD_ABS,
        jt: 0,
        jf: 0,
        k: offset,
    }
}

fn and(mask: u32) -> Insn {
    Insn {
        code: AND,
        jt: 0,
        jf: 0,
        k: mask,
    }
}

fn ret(value: u32) -> Insn {
    Insn {
        code: RET,
        jt: 0,
        jf: 0,
        k: value,
    }
}
