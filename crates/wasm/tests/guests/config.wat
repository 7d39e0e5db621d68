;; Asks `wasi:config` for `colour`, and ends with the length of the value, or with 200 if there is none.
(component
    (import "wasi:cli/exit@0.2.12" (instance $exit
        (export "exit-with-code" (func (param "status-code" u8)))))
    (import "wasi:config/store@0.2.0-rc.1" (instance $store
        (type $variant (variant (case "upstream" string) (case "io" string)))
        (export "error" (type $error (eq $variant)))
        (export "get" (func (param "key" string) (result (result (option string) (error $error)))))))
    (core module $libc
        (memory (export "memory") 1)
        (func (export "realloc") (param i32 i32 i32 i32) (result i32) (i32.const 4096)))
    (core instance $libc (instantiate $libc))
    (core func $exit (canon lower (func $exit "exit-with-code")))
    (core func $get (canon lower (func $store "get")
        (memory (core memory $libc "memory")) (realloc (core func $libc "realloc"))))
    (core module $m
        (import "libc" "memory" (memory 1))
        (import "host" "exit" (func $exit (param i32)))
        (import "host" "get" (func $get (param i32 i32 i32)))
        (data (i32.const 0) "colour")
        (func (export "run") (result i32)
            (call $get (i32.const 0) (i32.const 6) (i32.const 64))
            (if (i32.load8_u (i32.const 68)) (then (call $exit (i32.load (i32.const 76)))))
            (call $exit (i32.const 200))
            (i32.const 0)))
    (core instance $i (instantiate $m
        (with "libc" (instance $libc))
        (with "host" (instance (export "exit" (func $exit)) (export "get" (func $get))))))
    (func $run (result (result)) (canon lift (core func $i "run")))
    (instance $run (export "run" (func $run)))
    (export "wasi:cli/run@0.2.12" (instance $run)))
