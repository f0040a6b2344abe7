//! Device tokens: their text, and what is shown in a hello.
#![no_main]

use libfuzzer_sys::fuzz_target;
use trunkline_wire::auth::{DeviceToken, Secret};
use trunkline_wire::id::IdRef;

fuzz_target!(|input: (&str, &[u8], u64, u64)| {
    let (text, credentials, expiry, now) = input;
    if let Ok(token) = text.parse::<DeviceToken>() {
        assert_eq!(token.to_string(), text);
    }
    let key = Secret::new(b"0123456789abcdef").expect("16 bytes");
    let Ok(device) = IdRef::new(text) else { return };
    let token = DeviceToken::sign(&key, device, expiry);
    assert_eq!(token.to_string().parse(), Ok(token));
    assert_eq!(
        DeviceToken::verify(&key, device, token.bytes(), now).is_ok(),
        now < expiry
    );
    // Nobody guesses an HMAC.
    assert!(credentials == token.bytes() || DeviceToken::verify(&key, device, credentials, 0).is_err());
});
