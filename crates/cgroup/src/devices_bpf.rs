//! The device rules of v2: an eBPF program over `bpf_cgroup_dev_ctx`, generated here.
//!
//! The kernel runs it for each open and mknod; it returns 1 to allow. Generating is pure; loading and
//! attaching are `duet-linux`'s.

use std::fs::File;
use std::os::fd::OwnedFd;
use std::path::Path;
use std::sync::{Mutex, PoisonError};

use duet_linux::bpf::{self, Insn};

use crate::Error;
use crate::devices::{Access, DeviceType, Policy, Rule};
use crate::error::errno;

// Operations, put together from the classes and modes of linux/bpf_common.h and linux/bpf.h.
/// Load a 32-bit word.
const LOAD: u8 = 0x61;
/// 64-bit move of a constant.
const MOVE: u8 = 0xb7;
/// 32-bit move of a register.
const COPY: u8 = 0xbc;
/// 32-bit `and` with a constant.
const AND: u8 = 0x54;
/// 32-bit shift to the right by a constant.
const SHIFT: u8 = 0x74;
/// 32-bit jump if not equal to a constant (Linux 5.1).
const JUMP_UNLESS: u8 = 0x56;
/// 32-bit jump if not equal to a register.
const JUMP_UNLESS_REGISTER: u8 = 0x5e;
/// 32-bit jump if equal to a constant.
const JUMP_IF: u8 = 0x16;
/// Return register 0.
const EXIT: u8 = 0x95;

// What the registers hold.
const VERDICT: u8 = 0;
const CONTEXT: u8 = 1;
const KIND: u8 = 2;
const ACCESS: u8 = 3;
const MAJOR: u8 = 4;
const MINOR: u8 = 5;
const SCRATCH: u8 = 6;

/// Puts an instruction together; the destination register is in the low half of its byte.
const fn instruction(code: u8, destination: u8, source: u8, offset: i16, immediate: i32) -> Insn {
    Insn {
        code,
        registers: source << 4 | destination,
        offset,
        immediate,
    }
}

/// The program for `policy`: four instructions, up to eight for each exception, and two.
///
/// # References
///
/// [`BPF_PROG_TYPE_CGROUP_DEVICE`](https://docs.kernel.org/bpf/libbpf/program_types.html), and
/// `struct bpf_cgroup_dev_ctx` in `linux/bpf.h`: the access type (kind in the low half, access in the
/// high half), major, minor.
#[must_use]
pub fn program(policy: &Policy) -> Vec<Insn> {
    let mut program = vec![
        instruction(LOAD, KIND, CONTEXT, 0, 0),
        instruction(COPY, ACCESS, KIND, 0, 0),
        instruction(AND, KIND, 0, 0, 0xffff),
        instruction(SHIFT, ACCESS, 0, 0, 16),
        instruction(LOAD, MAJOR, CONTEXT, 4, 0),
        instruction(LOAD, MINOR, CONTEXT, 8, 0),
    ];
    for rule in &policy.exceptions {
        program.extend(exception(rule, policy.allow));
    }
    program.extend(verdict(policy.allow));
    program
}

fn verdict(allow: bool) -> [Insn; 2] {
    [
        instruction(MOVE, VERDICT, 0, 0, i32::from(allow)),
        instruction(EXIT, 0, 0, 0, 0),
    ]
}

/// The instructions for one exception: any test that fails jumps behind them.
fn exception(rule: &Rule, default: bool) -> Vec<Insn> {
    let kind = match rule.kind {
        DeviceType::Block => 1,
        DeviceType::Char => 2,
    };
    let mut code = vec![instruction(JUMP_UNLESS, KIND, 0, 0, kind)];
    if rule.access != Access::ALL {
        code.push(instruction(COPY, SCRATCH, ACCESS, 0, 0));
        code.push(instruction(
            AND,
            SCRATCH,
            0,
            0,
            i32::from(rule.access.bits()),
        ));
        code.push(if default {
            // A denial: one forbidden access in the request is enough.
            instruction(JUMP_IF, SCRATCH, 0, 0, 0)
        } else {
            // A permission: it must cover the whole request.
            instruction(JUMP_UNLESS_REGISTER, SCRATCH, ACCESS, 0, 0)
        });
    }
    for (register, number) in [(MAJOR, rule.major), (MINOR, rule.minor)] {
        if let Some(number) = number {
            // The same 32 bits, under the sign the instruction has.
            let number = i32::from_ne_bytes(number.to_ne_bytes());
            code.push(instruction(JUMP_UNLESS, register, 0, 0, number));
        }
    }
    code.extend(verdict(!default));
    let end = code.len();
    for (at, one) in code.iter_mut().enumerate() {
        if matches!(one.code, JUMP_UNLESS | JUMP_UNLESS_REGISTER | JUMP_IF) {
            // Eight instructions at most.
            one.offset = i16::try_from(end - at - 1).unwrap_or(i16::MAX);
        }
    }
    code
}

/// The program that was loaded last. Loading costs 0.2 ms, most of it in the kernel's verifier, and
/// nearly every container has the same rules.
static LOADED: Mutex<Option<(Vec<Insn>, OwnedFd)>> = Mutex::new(None);

/// Loads the program for `policy`, unless it was the last, and attaches it to the v2 cgroup `dir`.
pub(crate) fn confine(dir: &Path, policy: &Policy) -> Result<(), Error> {
    let program = program(policy);
    let cgroup = File::open(dir).map_err(|error| Error::on("open", dir, &error))?;
    let mut loaded = LOADED.lock().unwrap_or_else(PoisonError::into_inner);
    let known = loaded.take().filter(|(last, _)| *last == program);
    let descriptor = match known {
        Some((_, descriptor)) => descriptor,
        None => {
            bpf::load_device_program("duet_devices", &program).map_err(|error| Error::Devices {
                step: "load",
                source: errno(&error),
            })?
        }
    };
    let attached = bpf::attach(&cgroup, &descriptor).map_err(|error| Error::Devices {
        step: "attach",
        source: errno(&error),
    });
    *loaded = Some((program, descriptor));
    attached
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Runs `program` as the kernel would, on a context of three words.
    fn run(program: &[Insn], context: [u32; 3]) -> u32 {
        let mut registers = [0_u32; 11];
        let mut at = 0;
        loop {
            let one = program[at];
            at += 1;
            let (to, from) = (
                usize::from(one.registers & 15),
                usize::from(one.registers >> 4),
            );
            let constant = u32::from_ne_bytes(one.immediate.to_ne_bytes());
            let jump = match one.code {
                LOAD => {
                    assert_eq!(from, usize::from(CONTEXT));
                    registers[to] = context[usize::try_from(one.offset).unwrap() / 4];
                    false
                }
                MOVE => {
                    registers[to] = constant;
                    false
                }
                COPY => {
                    registers[to] = registers[from];
                    false
                }
                AND => {
                    registers[to] &= constant;
                    false
                }
                SHIFT => {
                    registers[to] >>= constant;
                    false
                }
                JUMP_UNLESS => registers[to] != constant,
                JUMP_UNLESS_REGISTER => registers[to] != registers[from],
                JUMP_IF => registers[to] == constant,
                EXIT => return registers[0],
                other => panic!("no such operation: {other:#x}"),
            };
            if jump {
                at += usize::try_from(one.offset).unwrap();
            }
        }
    }

    const BLOCK: u32 = 1;
    const CHAR: u32 = 2;

    fn asks(kind: u32, access: Access, major: u32, minor: u32) -> [u32; 3] {
        [kind | u32::from(access.bits()) << 16, major, minor]
    }

    fn policy(json: &str) -> Policy {
        Policy::new(&serde_json::from_str::<Vec<_>>(json).unwrap()).unwrap()
    }

    #[test]
    fn deny_all_allows_null_and_mknod_and_no_disk() {
        let program = program(&policy(r#"[{"allow": false, "access": "rwm"}]"#));
        let both = Access::READ.and(Access::WRITE);
        let cases = [
            (asks(CHAR, both, 1, 3), 1),
            (asks(CHAR, Access::READ, 136, 77), 1),
            (asks(CHAR, Access::READ, 5, 2), 1),
            (asks(CHAR, Access::READ, 5, 1), 0),
            (asks(BLOCK, Access::MKNOD, 8, 0), 1),
            (asks(BLOCK, Access::READ, 8, 0), 0),
            // A block device with the numbers of null is not null.
            (asks(BLOCK, Access::READ, 1, 3), 0),
            (asks(CHAR, Access::MKNOD.and(Access::READ), 7, 7), 0),
        ];
        for (context, verdict) in cases {
            assert_eq!(run(&program, context), verdict, "{context:x?}");
        }
    }

    #[test]
    fn the_program_decides_as_the_policy_reads_for_every_access() {
        let policies = [
            policy(r#"[{"allow": true, "type": "b", "major": 8, "access": "r"}]"#),
            policy(
                r#"[{"allow": true, "access": "rwm"},
                    {"allow": false, "type": "b", "major": 8, "access": "w"}]"#,
            ),
            policy(r#"[{"allow": true, "access": "rwm"}]"#),
        ];
        for policy in policies {
            let program = program(&policy);
            for (kind, word) in [(DeviceType::Block, BLOCK), (DeviceType::Char, CHAR)] {
                for bits in 1..8_u8 {
                    for (major, minor) in [(1, 3), (8, 0), (8, 1), (0xffff_ffff, 0)] {
                        let matched = policy.exceptions.iter().any(|rule| {
                            let own = rule.access.bits() & bits;
                            let access = if policy.allow { own != 0 } else { own == bits };
                            rule.kind == kind
                                && access
                                && rule.major.is_none_or(|own| own == major)
                                && rule.minor.is_none_or(|own| own == minor)
                        });
                        let context = [word | u32::from(bits) << 16, major, minor];
                        let allowed = run(&program, context) == 1;
                        assert_eq!(allowed, matched != policy.allow, "{context:x?}");
                    }
                }
            }
        }
    }
}
