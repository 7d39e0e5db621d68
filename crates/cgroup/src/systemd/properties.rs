//! Limits in systemd's words: those that it would otherwise undo.
//!
//! | OCI | v2 | v1 |
//! | --- | --- | --- |
//! | `memory.limit`, `swap`, `reservation` | `MemoryMax`, `MemorySwapMax`, `MemoryLow` | `MemoryLimit` |
//! | `cpu.shares`, `idle` | `CPUWeight` | `CPUShares` |
//! | `cpu.quota`, `period` | `CPUQuotaPerSecUSec`, `CPUQuotaPeriodUSec` | the same |
//! | `cpu.cpus`, `mems` | `AllowedCPUs`, `AllowedMemoryNodes` | systemd has none |
//! | `pids.limit` | `TasksMax` | the same |
//! | `blockIO.weight` | `IOWeight` | `BlockIOWeight` |
//! | `devices` | nothing: programs add up, and systemd attaches none by itself | `DevicePolicy`, `DeviceAllow` |
//! | `unified` | its files that are one of these | |
//!
//! # References
//!
//! [org.freedesktop.systemd1(5)](https://www.freedesktop.org/software/systemd/man/latest/org.freedesktop.systemd1.html),
//! [systemd.resource-control(5)](https://www.freedesktop.org/software/systemd/man/latest/systemd.resource-control.html);
//! the selection is runc's (`libcontainer/cgroups/systemd`), with `CPUWeight=idle` and the weight of I/O added.

use std::borrow::Cow;
use std::fs;

use oci_spec::runtime::{LinuxCpu, LinuxResources};

use super::message::Value;
use crate::devices::{DeviceType, Policy, Rule};
use crate::limits::{asked, listed};
use crate::limits_v2::{io_weight, swap_alone, weight_of_shares};
use crate::{Error, Mode};

/// What systemd takes for "without limit".
const INFINITY: u64 = u64::MAX;

/// The period of a quota where nobody has said another: 100 ms.
pub(super) const PERIOD: u64 = 100_000;

/// One percent of a processor, in microseconds a second: the grain of systemd's quota.
const PERCENT: u64 = 10_000;

/// A unit's properties, each once.
#[derive(Debug, Default, PartialEq, Eq)]
pub(super) struct Properties(Vec<(Cow<'static, str>, Value)>);

// === impl Properties ===

impl Properties {
    pub(super) fn set(&mut self, name: impl Into<Cow<'static, str>>, value: Value) {
        let name = name.into();
        self.0.retain(|(known, _)| *known != name);
        self.0.push((name, value));
    }

    pub(super) fn iter(&self) -> impl Iterator<Item = (&str, &Value)> {
        self.0.iter().map(|(name, value)| (&**name, value))
    }

    pub(super) fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    fn number(&mut self, name: &'static str, number: u64) {
        self.set(name, Value::Number(number));
    }

    /// Adds the limits that systemd knows of; `period` is the one that a lone quota is about.
    pub(super) fn limit(
        &mut self,
        mode: Mode,
        resources: &LinuxResources,
        period: u64,
    ) -> Result<(), Error> {
        match mode {
            Mode::V2 => {
                self.limit_v2(resources)?;
            }
            Mode::V1 | Mode::Hybrid => self.limit_v1(resources),
        }
        if let Some(cpu) = resources.cpu() {
            self.quota(asked(cpu.quota()), asked(cpu.period()), period);
        }
        let pids = resources.pids().as_ref();
        if let Some(limit) = asked(pids.map(oci_spec::runtime::LinuxPids::limit)) {
            self.number("TasksMax", or_infinity(limit));
        }
        if mode == Mode::V2 {
            for (file, value) in resources.unified().iter().flatten() {
                self.unified(file, value, period);
            }
        }
        Ok(())
    }

    /// Adds the devices of a container that is born. Only on v1 does systemd write over ours.
    pub(super) fn confine(&mut self, mode: Mode, resources: &LinuxResources) -> Result<(), Error> {
        let rules = resources.devices().as_deref().unwrap_or_default();
        let policy = Policy::new(rules)?;
        // By itself it allows all, as such a policy does but for its exceptions.
        if mode == Mode::V2 || policy.allow {
            return Ok(());
        }
        let drivers = fs::read_to_string("/proc/devices").unwrap_or_default();
        let pairs = policy
            .exceptions
            .iter()
            .filter_map(|rule| Some((device(rule, &drivers)?, rule.access.to_string())));
        let pairs = pairs.collect();
        self.set("DevicePolicy", Value::Text("strict".to_owned()));
        self.set("DeviceAllow", Value::Pairs(pairs));
        Ok(())
    }

    fn limit_v2(&mut self, resources: &LinuxResources) -> Result<(), Error> {
        if let Some(memory) = resources.memory() {
            let limit = asked(memory.limit());
            if let Some(bytes) = limit {
                self.number("MemoryMax", or_infinity(bytes));
            }
            if let Some(bytes) = swap_alone(limit, asked(memory.swap()))? {
                self.number("MemorySwapMax", or_infinity(bytes));
            }
            if let Some(bytes) = asked(memory.reservation()) {
                self.number("MemoryLow", or_infinity(bytes));
            }
        }
        if let Some(cpu) = resources.cpu() {
            if cpu.idle() == Some(1) {
                // The number that stands for "idle".
                self.number("CPUWeight", 0);
            } else if let Some(shares) = asked(cpu.shares()) {
                self.number("CPUWeight", weight_of_shares(shares));
            }
            self.cpuset(cpu);
        }
        let block = resources.block_io().as_ref();
        if let Some(weight) = asked(block.and_then(|block| block.weight())) {
            self.number("IOWeight", io_weight(weight));
        }
        Ok(())
    }

    fn limit_v1(&mut self, resources: &LinuxResources) {
        let memory = resources.memory().as_ref();
        if let Some(bytes) = asked(memory.and_then(|memory| memory.limit())) {
            self.number("MemoryLimit", or_infinity(bytes));
        }
        let cpu = resources.cpu().as_ref();
        if let Some(shares) = asked(cpu.and_then(|cpu| cpu.shares())) {
            self.number("CPUShares", shares);
        }
        let block = resources.block_io().as_ref();
        if let Some(weight) = asked(block.and_then(|block| block.weight())) {
            self.number("BlockIOWeight", weight.into());
        }
    }

    fn cpuset(&mut self, cpu: &LinuxCpu) {
        for (name, list) in [
            ("AllowedCPUs", cpu.cpus()),
            ("AllowedMemoryNodes", cpu.mems()),
        ] {
            // What is no list the kernel refuses by the file's name.
            if let Some(bits) = listed(list.as_ref()).and_then(bits) {
                self.set(name, Value::Bytes(bits));
            }
        }
    }

    fn quota(&mut self, quota: Option<i64>, period: Option<u64>, usual: u64) {
        if let Some(quota) = quota {
            let share = match u64::try_from(quota) {
                Ok(quota) => share(quota, period.unwrap_or(usual)),
                Err(_) => INFINITY,
            };
            self.number("CPUQuotaPerSecUSec", share);
        }
        if let Some(period) = period {
            self.number("CPUQuotaPeriodUSec", period);
        }
    }

    /// A file of v2 that systemd writes, too. What is no value of it the kernel refuses by its name.
    fn unified(&mut self, file: &str, value: &str, usual: u64) {
        let number = |value: &str| match value {
            "max" => Some(INFINITY),
            value => value.parse().ok(),
        };
        let value = value.trim();
        let known = match file {
            "memory.min" => "MemoryMin",
            "memory.low" => "MemoryLow",
            "memory.high" => "MemoryHigh",
            "memory.max" => "MemoryMax",
            "memory.swap.max" => "MemorySwapMax",
            "pids.max" => "TasksMax",
            "cpu.weight" => "CPUWeight",
            "cpu.idle" if value == "1" => return self.number("CPUWeight", 0),
            "io.weight" => {
                let weight = value.strip_prefix("default").unwrap_or(value).trim();
                if let Some(weight) = number(weight) {
                    self.number("IOWeight", weight);
                }
                return;
            }
            "cpu.max" => {
                let mut words = value.split_whitespace();
                let quota = words.next().map(|quota| quota.parse().unwrap_or(-1));
                let period = words.next().and_then(|period| period.parse().ok());
                return self.quota(quota, period, usual);
            }
            "cpuset.cpus" | "cpuset.mems" => {
                let name = if file == "cpuset.cpus" {
                    "AllowedCPUs"
                } else {
                    "AllowedMemoryNodes"
                };
                if let Some(bits) = bits(value) {
                    self.set(name, Value::Bytes(bits));
                }
                return;
            }
            _ => return,
        };
        if let Some(number) = number(value) {
            self.number(known, number);
        }
    }
}

/// Below zero there is no limit.
fn or_infinity(limit: i64) -> u64 {
    u64::try_from(limit).unwrap_or(INFINITY)
}

/// Microseconds of each second, rounded up to what systemd can keep: it must not allow less than asked.
fn share(quota: u64, period: u64) -> u64 {
    let share = quota.saturating_mul(1_000_000) / period.max(1);
    share.div_ceil(PERCENT).saturating_mul(PERCENT)
}

/// `0-2,5` as the bits that systemd has for it; `None` for what is no such list, or an absurd one.
fn bits(list: &str) -> Option<Vec<u8>> {
    /// More processors than a kernel can be built for (8192).
    const MOST: usize = 1 << 14;
    let mut bits = Vec::new();
    for part in list
        .split(',')
        .map(str::trim)
        .filter(|part| !part.is_empty())
    {
        let (first, last) = part.split_once('-').unwrap_or((part, part));
        let (first, last): (usize, usize) = (first.parse().ok()?, last.parse().ok()?);
        if first > last || last >= MOST {
            return None;
        }
        if bits.len() <= last / 8 {
            bits.resize(last / 8 + 1, 0_u8);
        }
        for number in first..=last {
            bits[number / 8] |= 1 << (number % 8);
        }
    }
    Some(bits)
}

/// A rule's devices as systemd names them; `None` for those that it has no name for.
fn device(rule: &Rule, drivers: &str) -> Option<String> {
    let (kind, header) = match rule.kind {
        DeviceType::Char => ("char", "Character devices:"),
        DeviceType::Block => ("block", "Block devices:"),
    };
    match (rule.major, rule.minor) {
        (None, None) => Some(format!("{kind}-*")),
        (None, Some(_)) => None,
        (Some(major), Some(minor)) => Some(format!("/dev/{kind}/{major}:{minor}")),
        (Some(major), None) => {
            let mut lines = drivers.lines().skip_while(|line| *line != header).skip(1);
            let driver = lines
                .by_ref()
                .take_while(|line| !line.is_empty())
                .filter_map(|line| line.trim().split_once(' '))
                .find(|(number, _)| number.parse() == Ok(major));
            driver.map(|(_, name)| format!("{kind}-{name}"))
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn limits(mode: Mode, json: &str) -> Vec<(Cow<'static, str>, Value)> {
        let mut properties = Properties::default();
        let resources = serde_json::from_str(json).unwrap();
        properties.limit(mode, &resources, PERIOD).unwrap();
        properties.0.sort_by(|(one, _), (other, _)| one.cmp(other));
        properties.0
    }

    fn numbers(expected: &[(&'static str, u64)]) -> Vec<(Cow<'static, str>, Value)> {
        let number =
            |(name, number): &(&'static str, u64)| (Cow::Borrowed(*name), Value::Number(*number));
        expected.iter().map(number).collect()
    }

    #[test]
    fn limits_have_the_names_of_their_version() {
        let json = r#"{"memory": {"limit": 1000, "swap": 1500, "reservation": 10},
            "cpu": {"shares": 1024, "quota": 50000, "period": 100000},
            "pids": {"limit": 7}, "blockIO": {"weight": 1000}}"#;
        let expected = [
            ("CPUQuotaPerSecUSec", 500_000),
            ("CPUQuotaPeriodUSec", 100_000),
            ("CPUWeight", 100),
            ("IOWeight", 10_000),
            ("MemoryLow", 10),
            ("MemoryMax", 1000),
            ("MemorySwapMax", 500),
            ("TasksMax", 7),
        ];
        assert_eq!(limits(Mode::V2, json), numbers(&expected));
        let expected = [
            ("BlockIOWeight", 1000),
            ("CPUQuotaPerSecUSec", 500_000),
            ("CPUQuotaPeriodUSec", 100_000),
            ("CPUShares", 1024),
            ("MemoryLimit", 1000),
            ("TasksMax", 7),
        ];
        assert_eq!(limits(Mode::Hybrid, json), numbers(&expected));
    }

    #[test]
    fn nothing_asked_is_nothing_told_and_no_limit_is_infinity() {
        for mode in [Mode::V1, Mode::Hybrid, Mode::V2] {
            assert_eq!(limits(mode, "{}"), []);
        }
        let json = r#"{"memory": {"limit": -1}, "cpu": {"quota": -1}, "pids": {"limit": -1}}"#;
        let expected = [
            "CPUQuotaPerSecUSec",
            "MemoryMax",
            "MemorySwapMax",
            "TasksMax",
        ];
        let expected = expected.map(|name| (name, u64::MAX));
        assert_eq!(limits(Mode::V2, json), numbers(&expected));
    }

    #[test]
    fn files_of_unified_win() {
        let json = r#"{"memory": {"limit": 1000}, "cpu": {"shares": 2}, "unified": {
            "memory.max": "2000", "memory.high": "max", "cpu.max": "12345 50000", "cpu.idle": "1",
            "io.weight": "default 50", "pids.max": "9", "memory.oom.group": "1", "cpuset.cpus": "0,2-3,9"}}"#;
        let mut expected = numbers(&[
            ("CPUQuotaPerSecUSec", 250_000),
            ("CPUQuotaPeriodUSec", 50_000),
            ("CPUWeight", 0),
            ("IOWeight", 50),
            ("MemoryHigh", u64::MAX),
            ("MemoryMax", 2000),
            ("TasksMax", 9),
        ]);
        expected.insert(0, ("AllowedCPUs".into(), Value::Bytes(vec![0b1101, 0b10])));
        assert_eq!(limits(Mode::V2, json), expected);
    }

    #[test]
    fn lists_of_processors_are_bits() {
        for (list, expected) in [
            ("0", Some(vec![1])),
            ("0-1, 7", Some(vec![0b1000_0011])),
            ("8", Some(vec![0, 1])),
            ("1-0", None),
            ("a", None),
            ("0-99999999", None),
        ] {
            assert_eq!(bits(list), expected, "{list}");
        }
    }

    #[test]
    fn devices_have_names_on_v1() {
        let drivers = "Character devices:\n  1 mem\n136 pts\n\nBlock devices:\n  8 sd\n";
        let rule = |kind, major, minor| Rule {
            kind,
            major,
            minor,
            access: crate::Access::ALL,
        };
        for (rule, name) in [
            (rule(DeviceType::Char, None, None), Some("char-*")),
            (
                rule(DeviceType::Char, Some(1), Some(3)),
                Some("/dev/char/1:3"),
            ),
            (rule(DeviceType::Char, Some(136), None), Some("char-pts")),
            (rule(DeviceType::Block, Some(8), None), Some("block-sd")),
            (rule(DeviceType::Block, Some(136), None), None),
            (rule(DeviceType::Block, None, Some(0)), None),
        ] {
            assert_eq!(device(&rule, drivers).as_deref(), name);
        }
    }
}
