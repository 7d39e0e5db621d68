//! What containerd tells about tasks, as `ctr events` prints it.

use serde_json::Value;

use crate::command::{self, Running};
use crate::{Node, wait};

/// Subscribes, and returns when the subscription is in force.
#[must_use]
pub fn subscribe(node: &Node) -> Running {
    let events = command::start(node.daemon().ctr(node.namespace()).arg("events"));
    // Something that makes an event, until the subscriber hears of it.
    let heard = || {
        let label = format!("heard={}", events.stdout().len());
        let _labelled = command::run(node.daemon().ctr("default").args([
            "namespaces",
            "label",
            node.namespace(),
            &label,
        ]));
        events.stdout().contains("/namespaces/update").then_some(())
    };
    wait::until("the subscription", heard);
    events
}

/// The events about tasks that have been told: the topic without `/tasks/`, and the event.
#[must_use]
pub fn of_tasks(text: &str) -> Vec<(String, Value)> {
    let event = |line: &str| {
        let (_, rest) = line.split_once(" /tasks/")?;
        let (topic, event) = rest.split_once(' ')?;
        Some((topic.to_owned(), serde_json::from_str(event).ok()?))
    };
    text.lines().filter_map(event).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_event_is_a_topic_and_an_object() {
        let text = "2026-01-01 00:00:00 +0000 UTC ns /tasks/exit {\"container_id\":\"a\",\"exit_status\":3}\n\
            2026-01-01 00:00:00 +0000 UTC ns /namespaces/update {\"name\":\"ns\"}\n";
        let events = of_tasks(text);
        assert_eq!(events.len(), 1);
        assert_eq!(events[0].0, "exit");
        assert_eq!(events[0].1["exit_status"], 3);
    }
}
