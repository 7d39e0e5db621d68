//! resvg, which draws: an SVG of a volume becomes a PNG beside it.

use std::fs;

use crate::{enter, run, volume, wish};

const DRAWING: &str = r##"<svg xmlns="http://www.w3.org/2000/svg" width="120" height="80">
  <defs><linearGradient id="sky"><stop stop-color="#08f"/><stop offset="1" stop-color="#fff"/></linearGradient></defs>
  <rect width="120" height="80" fill="url(#sky)"/>
  <circle cx="60" cy="40" r="25" fill="none" stroke="crimson" stroke-width="7"/>
</svg>"##;

#[test]
fn a_drawing_of_a_volume_becomes_a_picture_there() {
    let Some(node) = enter() else { return };
    let (cri, volume) = (node.cri(), volume(&node));
    fs::write(volume.join("drawing.svg"), DRAWING).expect("our own folder");
    let pod = cri.pod("resvg");
    let draw = |name: &str, args: &[&str]| {
        run(
            &pod,
            &wish(name, &volume, &[&["/resvg.wasm"], args].concat()),
        )
    };
    let (code, _, stderr) = draw("plain", &["/data/drawing.svg", "/data/plain.png"]);
    assert_eq!(code, 0, "{stderr:?}");
    assert_eq!(size(&volume.join("plain.png")), (120, 80));
    let wide = ["--width", "600", "/data/drawing.svg", "/data/wide.png"];
    let (code, _, stderr) = draw("wide", &wide);
    assert_eq!(code, 0, "{stderr:?}");
    assert_eq!(size(&volume.join("wide.png")), (600, 400));

    let (code, _, stderr) = draw("missing", &["/data/nothing.svg", "/data/nothing.png"]);
    assert_eq!(code, 1, "{stderr:?}");
    assert_eq!(stderr, ["Error: failed to open the provided file."]);
    assert!(!volume.join("nothing.png").exists());
    pod.remove();
}

/// Width and height of a PNG that is complete.
fn size(path: &std::path::Path) -> (u32, u32) {
    let png = fs::read(path).expect("it was drawn");
    assert_eq!(png[..16], *b"\x89PNG\r\n\x1a\n\0\0\0\rIHDR");
    assert!(png.ends_with(b"\0\0\0\0IEND\xaeB`\x82"), "it is cut off");
    let number = |at: usize| u32::from_be_bytes(png[at..at + 4].try_into().expect("four bytes"));
    (number(16), number(20))
}
