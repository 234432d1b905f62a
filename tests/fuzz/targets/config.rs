//! The configuration: what `config show` prints is a configuration too, and the same.

#![no_main]

use countersign::config::Config;
use libfuzzer_sys::fuzz_target;

fuzz_target!(|data: &[u8]| {
    let Ok(text) = str::from_utf8(data) else { return };
    let config = match Config::parse(text) {
        Ok(config) => config,
        Err(error) => {
            assert!(!error.to_string().is_empty());
            return;
        }
    };
    let shown = toml::to_string(&config).unwrap();
    let again = Config::parse(&shown).unwrap();
    assert_eq!(toml::to_string(&again).unwrap(), shown);
    let limits = config.public.limits;
    assert!(limits.idle_seconds > limits.call_seconds);
    assert_eq!(config.leases().unwrap().len(), config.lease_days.len());
});
