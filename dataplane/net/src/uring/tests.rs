use std::io::{Read, Write};
use std::net::TcpStream;

use super::*;

/// Turns of one driver against plain std sockets; the suite in `tests/` holds all drivers to the trait's text.
fn driver() -> Option<UringDriver> {
    if let Err(why) = probe() {
        println!("skipped: {why}");
        return None;
    }
    let bounds = crate::epoll::Options {
        sockets_max: 8,
        sockets_reserved: 0,
        device_buffers: 4,
        link_buffers: 2,
        ..crate::epoll::Options::default()
    };
    Some(UringDriver::new(bounds.into()).unwrap())
}

#[test]
fn an_echo_comes_back_and_the_peer_s_address_is_told() {
    let Some(mut driver) = driver() else { return };
    let address = driver.listen(([127, 0, 0, 1], 0).into(), ListenerId(1)).unwrap();
    let mut client = TcpStream::connect(address).unwrap();
    client.write_all(b"hello").unwrap();
    let mut completions = Vec::new();
    let mut echoed = false;
    while !echoed {
        driver.wait(None, &mut completions).unwrap();
        for completion in completions.drain(..) {
            match completion {
                Completion::Accepted { token, peer, .. } => {
                    assert_eq!(peer, client.local_addr().unwrap());
                    driver.receive(token, ReceiveMode::Stream, BufferGroup::Device);
                }
                Completion::Received { token, buffer } => {
                    let bytes = driver.bytes(&buffer).to_vec();
                    driver.give_back(buffer);
                    driver.send(token, bytes);
                }
                Completion::Sent { result, .. } => {
                    result.unwrap();
                    echoed = true;
                }
                other => panic!("{other:?}"),
            }
        }
    }
    let mut back = [0; 5];
    client.read_exact(&mut back).unwrap();
    assert_eq!(&back, b"hello");
}

#[test]
fn an_address_of_ipv6_is_told_as_well() {
    let Some(mut driver) = driver() else { return };
    let Ok(address) = driver.listen("[::1]:0".parse().unwrap(), ListenerId(1)) else {
        println!("skipped: no IPv6 here");
        return;
    };
    let client = TcpStream::connect(address).unwrap();
    let mut completions = Vec::new();
    driver.wait(None, &mut completions).unwrap();
    let Completion::Accepted { peer, .. } = &completions[0] else {
        panic!("{completions:?}")
    };
    assert_eq!(*peer, client.local_addr().unwrap());
}

#[test]
fn a_driver_dropped_in_the_middle_of_everything_frees_its_port_soon() {
    let Some(mut driver) = driver() else { return };
    let address = driver.listen(([127, 0, 0, 1], 0).into(), ListenerId(1)).unwrap();
    let client = TcpStream::connect(address).unwrap();
    let mut completions = Vec::new();
    driver.wait(None, &mut completions).unwrap();
    let Completion::Accepted { token, .. } = completions[0] else {
        panic!("{completions:?}")
    };
    driver.receive(token, ReceiveMode::Stream, BufferGroup::Device);
    driver.send(token, vec![1; 16 * 1024 * 1024]);
    driver.wait(Some(Instant::ZERO), &mut completions).unwrap();
    drop(driver);
    // The client sees an end, at once.
    client.set_read_timeout(Some(Duration::from_secs(5))).unwrap();
    let mut client = client;
    let mut sink = [0; 65_536];
    while matches!(client.read(&mut sink), Ok(read) if read > 0) {}
    // The kernel takes a ring apart on a thread of its own, after the last descriptor of it is closed.
    let until = std::time::Instant::now() + Duration::from_secs(10);
    while let Err(error) = std::net::TcpListener::bind(address) {
        assert!(std::time::Instant::now() < until, "{error}");
        std::thread::yield_now();
    }
}
