//! Values and registers, both ways.

use proptest::prelude::*;

use super::*;

fn layout(kind: Kind) -> Layout {
    Layout {
        kind,
        scale: 1.0,
        swap_bytes: false,
        swap_words: false,
        numeric: false,
    }
}

#[test]
fn known_registers_have_known_values() {
    let value = |kind, registers: &[u16]| layout(kind).value(registers).unwrap();
    assert_eq!(value(Kind::Unsigned(1), &[0xffff]), "65535");
    assert_eq!(value(Kind::Signed(1), &[0xffff]), "-1");
    assert_eq!(value(Kind::Unsigned(2), &[0x0001, 0x0002]), "65538");
    assert_eq!(value(Kind::Signed(2), &[0xffff, 0xfffe]), "-2");
    assert_eq!(value(Kind::Unsigned(4), &[0xffff; 4]), "18446744073709551615");
    assert_eq!(value(Kind::Signed(4), &[0x8000, 0, 0, 0]), "-9223372036854775808");
    assert_eq!(value(Kind::Float(2), &[0x41a8, 0xcccd]), "21.1");
    assert_eq!(value(Kind::Float(4), &[0x4035, 0x1999, 0x9999, 0x999a]), "21.1");
    assert_eq!(value(Kind::Bit(3), &[0b1000]), "true");
    assert_eq!(value(Kind::Bit(15), &[0b1000]), "false");
    assert_eq!(value(Kind::Text(3), &[0x5055, 0x4d50, 0x2000]), "PUMP");
}

#[test]
fn words_and_bytes_are_swapped_apart() {
    let mut swapped = layout(Kind::Unsigned(2));
    swapped.swap_words = true;
    assert_eq!(swapped.value(&[0x0002, 0x0001]).unwrap(), "65538");
    swapped.swap_bytes = true;
    assert_eq!(swapped.value(&[0x0200, 0x0100]).unwrap(), "65538");
    assert_eq!(swapped.registers("65538", 0).unwrap(), [0x0200, 0x0100]);
    let mut text = layout(Kind::Text(1));
    text.swap_bytes = true;
    assert_eq!(text.value(&[0x4241]).unwrap(), "AB");
}

#[test]
fn a_scale_goes_both_ways_without_noise() {
    let mut scaled = layout(Kind::Signed(1));
    scaled.scale = 0.1;
    assert_eq!(scaled.value(&[215]).unwrap(), "21.5");
    assert_eq!(scaled.registers("21.5", 0).unwrap(), [215]);
    assert_eq!(scaled.registers("-0.3", 0).unwrap(), [0xfffd]);
}

#[test]
fn what_does_not_fit_is_refused() {
    for (kind, value) in [
        (Kind::Unsigned(1), "65536"),
        (Kind::Unsigned(4), "18446744073709551616"),
        (Kind::Unsigned(1), "-1"),
        (Kind::Signed(1), "32768"),
        (Kind::Float(2), "1e40"),
        (Kind::Float(2), "NaN"),
        (Kind::Text(1), "abc"),
        (Kind::Bit(0), "maybe"),
        (Kind::Unsigned(1), "warm"),
    ] {
        assert!(layout(kind).registers(value, 0).is_err(), "{kind} {value}");
    }
    assert!(layout(Kind::Float(2)).value(&[0x7fc0, 0]).is_err());
    assert!(layout(Kind::Unsigned(2)).value(&[1]).is_err());
}

#[test]
fn a_bit_leaves_its_neighbours_alone() {
    assert_eq!(
        layout(Kind::Bit(3)).registers("true", 0b1_0001).unwrap(),
        [0b1_1001]
    );
    assert_eq!(
        layout(Kind::Bit(0)).registers("false", 0b1_0001).unwrap(),
        [0b1_0000]
    );
    let mut swapped = layout(Kind::Bit(0));
    swapped.swap_bytes = true;
    assert_eq!(swapped.registers("true", 0x0001).unwrap(), [0x0101]);
}

proptest! {
    #[test]
    fn what_is_written_is_what_is_read(
        bits: u64, registers in prop::sample::select(vec![1u8, 2, 4]), signed: bool, bytes: bool, words: bool,
    ) {
        let kind = if signed { Kind::Signed(registers) } else { Kind::Unsigned(registers) };
        let mut layout = layout(kind);
        (layout.swap_bytes, layout.swap_words) = (bytes, words);
        let raw = layout.words(bits);
        let value = layout.value(&raw).unwrap();
        prop_assert_eq!(layout.registers(&value, 0).unwrap(), raw);
    }

    #[test]
    fn no_registers_panic(
        registers in prop::collection::vec(any::<u16>(), 0..6), width in 0u16..6, bytes: bool, words: bool,
    ) {
        for kind in [Kind::Switch, Kind::Bit(7), Kind::Unsigned(2), Kind::Signed(4), Kind::Float(4), Kind::Text(width)] {
            let mut layout = layout(kind);
            (layout.swap_bytes, layout.swap_words) = (bytes, words);
            let _ = layout.value(&registers);
        }
    }
}
