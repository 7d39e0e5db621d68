//! Bundles made by hand, and which kind they are.

use std::fs;

use super::*;

const WASM: &[u8] = b"\0asm\x01\0\0\0";

struct Rig {
    dir: tempfile::TempDir,
}

impl Rig {
    fn new() -> Self {
        let rig = Rig {
            dir: tempfile::tempdir().unwrap(),
        };
        rig.write("rootfs/app.wasm", WASM);
        rig.write("rootfs/usr/bin/app", b"\x7fELF");
        rig.write("rootfs/usr/bin/guest", WASM);
        rig.write("volume/late.wasm", b"\0asm\x0d\0\x01\0");
        rig
    }

    fn write(&self, path: &str, bytes: &[u8]) {
        let path = self.dir.path().join(path);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(path, bytes).unwrap();
    }

    fn spec(&self, arg: &str, annotations: &str) -> Container {
        let volume = self.dir.path().join("volume");
        let json = format!(
            r#"{{"ociVersion":"1.1.0","root":{{"path":"rootfs"}},
            "process":{{"args":["{arg}"],"cwd":"/","user":{{"uid":0,"gid":0}},
                "env":["PATH=/usr/bin"]}},
            "mounts":[{{"destination":"/data","type":"bind","source":"{}",
                "options":["rbind"]}}],
            "annotations":{{{annotations}}},
            "linux":{{"namespaces":[{{"type":"mount"}}]}}}}"#,
            volume.display()
        );
        Container::parse(self.dir.path(), json.as_bytes()).unwrap()
    }

    fn decide(&self, arg: &str, annotations: &str) -> Result<(Kind, &'static str), WasmError> {
        let layer = || match fs::File::open(self.dir.path().join("layer")) {
            Ok(layer) => Ok(Some(layer)),
            Err(_) => Ok(None),
        };
        decide(&self.spec(arg, annotations), layer)
    }

    fn kind(&self, arg: &str, annotations: &str) -> (&'static str, &'static str) {
        match self.decide(arg, annotations).unwrap() {
            (Kind::Native, rule) => ("native", rule),
            (
                Kind::Wasm(Guest {
                    format: Format::Module,
                    ..
                }),
                rule,
            ) => ("module", rule),
            (
                Kind::Wasm(Guest {
                    format: Format::Component,
                    ..
                }),
                rule,
            ) => ("component", rule),
        }
    }
}

#[test]
fn the_entrypoint_s_bytes_decide() {
    let rig = Rig::new();
    for (arg, kind) in [
        ("/app.wasm", "module"),
        ("./app.wasm", "module"),
        ("guest", "module"),
        ("app", "native"),
        ("/usr/bin/app", "native"),
        ("/data/late.wasm", "component"),
        ("/nowhere", "native"),
        ("/data/nowhere", "native"),
        ("/usr", "native"),
    ] {
        assert_eq!(rig.kind(arg, ""), (kind, "bytes"), "{arg}");
    }
}

#[test]
fn a_file_that_is_only_called_wasm_is_named_with_its_first_bytes() {
    let rig = Rig::new();
    for (bytes, head) in [(&b"<html>"[..], "3c 68 74 6d"), (b"", "nothing")] {
        rig.write("rootfs/page.wasm", bytes);
        let error = rig.decide("/page.wasm", "").unwrap_err().to_string();
        let why = format!(
            "/page.wasm: begins with {head}, which is neither a WebAssembly binary (00 61 73 6d) nor \
             an executable"
        );
        assert_eq!(error, why);
    }
    for executable in [&b"\x7fELF"[..], b"#!/bin/sh\n"] {
        rig.write("rootfs/page.wasm", executable);
        assert_eq!(rig.kind("/page.wasm", ""), ("native", "bytes"));
    }
}

#[test]
fn what_is_called_wasm_and_is_nowhere_is_an_error_of_wasm() {
    let rig = Rig::new();
    for arg in ["/gone.wasm", "gone.wasm", "/app.wasm/gone.wasm"] {
        let error = rig.decide(arg, "").unwrap_err().to_string();
        let why = "no such file or directory, and no wasm layer was found in the image";
        assert_eq!(error, format!("{arg}: {why}"));
    }
    let native = format!(r#""{}":"native""#, annotations::HANDLER);
    assert_eq!(rig.kind("/gone.wasm", &native).0, "native");
    rig.write("layer", WASM);
    assert_eq!(rig.kind("/gone.wasm", ""), ("module", "layer"));
}

#[test]
fn links_do_not_lead_out_of_the_root() {
    let rig = Rig::new();
    rig.write("outside.wasm", WASM);
    let outside = rig.dir.path().join("outside.wasm");
    std::os::unix::fs::symlink(outside, rig.dir.path().join("rootfs/link.wasm")).unwrap();
    let error = rig.decide("/link.wasm", "").unwrap_err();
    assert!(matches!(error, WasmError::Absent { .. }), "{error}");
    std::os::unix::fs::symlink("/app.wasm", rig.dir.path().join("rootfs/inner.wasm")).unwrap();
    assert_eq!(rig.kind("/inner.wasm", ""), ("module", "bytes"));
}

#[test]
fn annotations_override() {
    let rig = Rig::new();
    let handler = annotations::HANDLER;
    let native = format!(r#""{handler}":"native""#);
    assert_eq!(rig.kind("/app.wasm", &native), ("native", handler));
    let smart = r#""module.wasm.image/variant":"compat-smart""#;
    assert_eq!(
        rig.kind("app", smart),
        ("native", annotations::IMAGE_VARIANT)
    );
    assert_eq!(
        rig.kind("/app.wasm", smart),
        ("module", annotations::IMAGE_VARIANT)
    );
    let crun = r#""run.oci.handler":"wasm""#;
    assert_eq!(
        rig.kind("guest", crun),
        ("module", annotations::CRUN_HANDLER)
    );
    let error = rig.decide("/usr/bin/app", crun).unwrap_err().to_string();
    assert_eq!(
        error,
        "annotations.run.oci.handler: /usr/bin/app is not a WebAssembly binary"
    );
    let error = rig.decide("/nowhere.wasm", crun).unwrap_err().to_string();
    assert_eq!(error, "open /nowhere.wasm");
    let sandbox = r#""io.kubernetes.cri.container-type":"sandbox""#;
    assert_eq!(
        rig.kind("/app.wasm", sandbox),
        ("native", annotations::CONTAINER_TYPE)
    );
}

#[test]
fn what_is_in_no_file_may_be_a_layer() {
    let rig = Rig::new();
    assert_eq!(rig.kind("server", ""), ("native", "bytes"));
    rig.write("layer", b"\0asm\x0d\0\x01\0");
    assert_eq!(rig.kind("server", ""), ("component", "layer"));
    assert_eq!(
        rig.kind("/app.wasm", ""),
        ("module", "bytes"),
        "a file is nearer"
    );
    let crun = r#""run.oci.handler":"wasm""#;
    assert_eq!(rig.kind("server", crun), ("component", "layer"));
    let native = r#""io.containerd.duet.v1.handler":"native""#;
    assert_eq!(rig.kind("server", native).0, "native");
}

#[test]
fn links_lead_where_they_lead_in_the_container() {
    let rig = Rig::new();
    let link = |target: &str, at: &str| {
        std::os::unix::fs::symlink(target, rig.dir.path().join(at)).unwrap();
    };
    // Behind the volume, where nobody sees it.
    rig.write("rootfs/data/late.wasm", b"\x7fELF");
    link("/data", "rootfs/into");
    link("../into/./late.wasm", "rootfs/usr/late");
    link("/app.wasm", "volume/out.wasm");
    link("../../../usr/bin/../../app.wasm", "volume/up.wasm");
    link("/proc/self/root/app.wasm", "volume/made-up.wasm");
    link("round.wasm", "volume/round.wasm");
    for (arg, kind) in [
        ("/into/late.wasm", "component"),
        ("/usr/late", "component"),
        ("/data/out.wasm", "module"),
        ("/into/up.wasm", "module"),
        ("/data/../app.wasm", "module"),
        ("/usr/../data/late.wasm", "component"),
    ] {
        assert_eq!(rig.kind(arg, ""), (kind, "bytes"), "{arg}");
    }
    for (arg, errno) in [("/data/round.wasm", 40), ("/data/made-up.wasm", ENOENT)] {
        let spec = rig.spec(arg, "");
        let error = open(&spec, Path::new(arg)).unwrap_err();
        assert_eq!(error.raw_os_error(), Some(errno), "{arg}");
    }
}
