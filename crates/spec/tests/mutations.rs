//! Whatever stands in `config.json`, reading it ends in words and never in a panic.

use duet_spec::Container;
use proptest::prelude::*;
use serde_json::Value;
use std::path::Path;

const SEED: &str = include_str!("fixtures/cri-restricted.json");

fn any_value() -> impl Strategy<Value = Value> {
    let leaf = prop_oneof![
        Just(Value::Null),
        any::<bool>().prop_map(Value::from),
        any::<i64>().prop_map(Value::from),
        any::<u64>().prop_map(Value::from),
        any::<f64>().prop_map(Value::from),
        "[ -~\u{0}é]{0,12}".prop_map(Value::from),
        prop_oneof![
            Just("/.."),
            Just("::"),
            Just("r"),
            Just("="),
            Just("/dev"),
            Just("rro")
        ]
        .prop_map(Value::from),
    ];
    leaf.prop_recursive(2, 8, 4, |inner| {
        prop_oneof![
            prop::collection::vec(inner.clone(), 0..4).prop_map(Value::from),
            prop::collection::hash_map("[a-z]{1,6}", inner, 0..4)
                .prop_map(|map| Value::Object(map.into_iter().collect())),
        ]
    })
}

/// Every place of a document, as JSON pointers.
fn places(value: &Value, at: &str, found: &mut Vec<String>) {
    found.push(at.to_owned());
    match value {
        Value::Array(items) => {
            for (index, item) in items.iter().enumerate() {
                places(item, &format!("{at}/{index}"), found);
            }
        }
        Value::Object(members) => {
            for (name, member) in members {
                let name = name.replace('~', "~0").replace('/', "~1");
                places(member, &format!("{at}/{name}"), found);
            }
        }
        Value::Null | Value::Bool(_) | Value::Number(_) | Value::String(_) => {}
    }
}

proptest! {
    #[test]
    fn a_changed_document_never_panics(
        changes in prop::collection::vec((any::<prop::sample::Index>(), any_value()), 1..4)
    ) {
        let mut document: Value = serde_json::from_str(SEED).unwrap();
        for (place, value) in changes {
            let mut found = Vec::new();
            places(&document, "", &mut found);
            let at: &String = place.get(&found);
            *document.pointer_mut(at).unwrap() = value;
        }
        drop(Container::parse(Path::new("/b"), document.to_string().as_bytes()));
    }

    #[test]
    fn bytes_never_panic(bytes in prop::collection::vec(any::<u8>(), 0..200)) {
        drop(Container::parse(Path::new("/b"), &bytes));
    }
}
