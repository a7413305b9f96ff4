//! Bodies of the HTTP API: whatever is sent, the answer is a value or a sentence.
#![no_main]

use libfuzzer_sys::fuzz_target;

fuzz_target!(|data: &[u8]| {
    lavant_node::http::fuzz_body(data);
});
