//! Servers in the text format, for what no compiler makes.

use crate::harness::Guest;

/// A `wasi:http` component whose core module is `core`, which exports a function `handle` of two numbers.
pub(crate) fn server(core: &str) -> Guest {
    Guest::wat(&format!(
        r#"(component
            (import "wasi:http/types@0.2.0" (instance $types
                (export "incoming-request" (type (sub resource)))
                (export "response-outparam" (type (sub resource)))))
            (alias export $types "incoming-request" (type $request))
            (alias export $types "response-outparam" (type $out))
            (core module $core {core})
            (core instance $made (instantiate $core))
            (func $handle (param "request" (own $request)) (param "response-out" (own $out))
                (canon lift (core func $made "handle")))
            (instance $handler (export "handle" (func $handle)))
            (export "wasi:http/incoming-handler@0.2.0" (instance $handler)))"#
    ))
}
