//! What a client's bytes look like behind the rewriter, whole and in pieces.

use proptest::prelude::*;

use super::*;

const SOCKET: &[u8] = b"%2Fetc%2Fkubeedge%2Fdmi.sock";

fn frame(kind: u8, flags: u8, payload: &[u8]) -> Vec<u8> {
    let mut frame = (u32::try_from(payload.len()).unwrap()).to_be_bytes()[1..].to_vec();
    frame.extend([kind, flags, 0, 0, 0, 1]);
    frame.extend(payload);
    frame
}

fn connection(frames: &[Vec<u8>]) -> Vec<u8> {
    let mut bytes = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n".to_vec();
    bytes.extend(frames.iter().flatten());
    bytes
}

fn literal(first: &[u8], value: &[u8]) -> Vec<u8> {
    let mut field = first.to_vec();
    field.push(u8::try_from(value.len()).unwrap());
    field.extend(value);
    field
}

/// `:method POST`, `:scheme http`, the authority as grpc-go writes it, and a field that is not indexed.
fn block(authority: &[u8]) -> Vec<u8> {
    let mut block = vec![0x83, 0x86];
    block.extend(literal(&[0x41], authority));
    block.extend(literal(&[0x00, 2, b't', b'e'], b"trailers"));
    block
}

fn rewritten(bytes: &[u8], pieces: usize) -> Result<Vec<u8>, Unreadable> {
    let mut rewriter = Rewriter::new();
    let mut out = BytesMut::new();
    for piece in bytes.chunks(pieces) {
        rewriter.feed(piece, &mut out)?;
    }
    Ok(out.to_vec())
}

#[test]
fn the_path_of_a_socket_becomes_one_letter_however_the_bytes_arrive() {
    let settings = frame(4, 0, &[0, 3, 0, 0, 0, 100]);
    let data = frame(0, END_STREAM, &[0, 0, 0, 0, 0]);
    let sent = connection(&[
        settings.clone(),
        frame(HEADERS, END_HEADERS, &block(SOCKET)),
        data.clone(),
    ]);
    let wanted = connection(&[settings, frame(HEADERS, END_HEADERS, &block(b"d")), data]);
    for pieces in [1, 2, 7, 10_000] {
        assert_eq!(rewritten(&sent, pieces).unwrap(), wanted);
    }
}

#[test]
fn every_way_to_write_the_name_is_found() {
    let mut huffman = vec![0x40, 0x80 | 8];
    huffman.extend(AUTHORITY_HUFFMAN);
    let mut plain = vec![0x00, 10];
    plain.extend(AUTHORITY);
    for name in [vec![0x41], vec![0x01], vec![0x11], huffman, plain] {
        assert_eq!(
            replace(&literal(&name, SOCKET)).unwrap(),
            literal(&name, b"d"),
            "{name:x?}"
        );
    }
    // Another name, another index, and a value that is longer than one byte can say.
    for name in [&[0x44][..], &[0x40, 2, b'a', b'b'], &[0x7f, 0x00]] {
        assert_eq!(replace(&literal(name, SOCKET)).unwrap(), literal(name, SOCKET));
    }
    let mut long = vec![0x41, 0x7f, 0x80, 0x01];
    long.extend([b'x'; 255]);
    assert_eq!(replace(&long).unwrap(), literal(&[0x41], b"d"));
}

#[test]
fn a_block_in_several_frames_with_padding_and_priority_becomes_one() {
    let block_sent = block(SOCKET);
    let (first, second) = block_sent.split_at(9);
    let mut payload = vec![3, 0, 0, 0, 0, 16];
    payload.extend(first);
    payload.extend([0; 3]);
    let sent = connection(&[
        frame(HEADERS, PADDED | PRIORITY | END_STREAM, &payload),
        frame(CONTINUATION, 0, &[]),
        frame(CONTINUATION, END_HEADERS, second),
    ]);
    let mut wanted = vec![0, 0, 0, 0, 16];
    wanted.extend(block(b"d"));
    let wanted = connection(&[frame(HEADERS, PRIORITY | END_STREAM | END_HEADERS, &wanted)]);
    assert_eq!(rewritten(&sent, 3).unwrap(), wanted);
}

#[test]
fn what_is_no_header_block_is_left_to_the_server() {
    // A string that ends behind its block, and a number without end.
    for odd in [&[0x41, 30, b'x'][..], &[0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff]] {
        let sent = connection(&[frame(HEADERS, END_HEADERS, odd)]);
        assert_eq!(rewritten(&sent, 100).unwrap(), sent);
    }
}

#[test]
fn a_block_without_end_or_out_of_order_ends_the_connection() {
    let endless = vec![frame(CONTINUATION, 0, &vec![0; 16_000]); 2];
    let mut sent = connection(&[frame(HEADERS, 0, &[0])]);
    sent.extend(endless.concat());
    assert_eq!(rewritten(&sent, 1000), Err(Unreadable::TooLarge));
    let huge = connection(&[frame(HEADERS, END_HEADERS, &vec![0; 16_385])]);
    assert_eq!(rewritten(&huge, 1000), Err(Unreadable::TooLarge));
    let torn = connection(&[frame(HEADERS, 0, &[0x83]), frame(0, 0, &[])]);
    assert_eq!(rewritten(&torn, 1000), Err(Unreadable::Torn));
    for payload in [&[][..], &[9, 1], &[0, 1, 2]] {
        let padded = connection(&[frame(HEADERS, END_HEADERS | PADDED | PRIORITY, payload)]);
        assert_eq!(rewritten(&padded, 1000), Err(Unreadable::Torn), "{payload:?}");
    }
}

proptest! {
    #[test]
    fn whatever_a_client_sends_it_never_grows_and_does_not_depend_on_the_pieces(
        bytes in proptest::collection::vec(any::<u8>(), 0..400),
        flags in any::<u8>(),
        pieces in 1_usize..50,
    ) {
        let mut sent = connection(&[frame(HEADERS, flags, &bytes)]);
        sent.extend(&bytes);
        let whole = rewritten(&sent, usize::MAX);
        prop_assert_eq!(&rewritten(&sent, pieces), &whole);
        if let Ok(out) = whole {
            prop_assert!(out.len() <= sent.len());
        }
    }
}
