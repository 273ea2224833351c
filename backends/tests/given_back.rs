//! Memory that was freed is given back to the system. It is a process of its own, whose resident
//! memory no other test changes.

#[cfg(all(target_os = "linux", target_env = "gnu"))]
#[test]
fn freed_blocks_between_others_are_given_back() {
    use anyid_backends::{AlignedBytes, give_back_freed};

    let resident = || {
        let text = std::fs::read_to_string("/proc/self/status").unwrap();
        let line = text.lines().find_map(|line| line.strip_prefix("VmRSS:")).unwrap();
        line.trim().trim_end_matches(" kB").parse::<u64>().unwrap() << 10
    };
    let block = || {
        let mut block = AlignedBytes::zeroed(4 << 20);
        block.bytes_mut().fill(1);
        block
    };
    // From the first large block that is freed on, smaller ones come from the heap of the process.
    drop(AlignedBytes::zeroed(24 << 20));
    let mut blocks: Vec<_> = (0..32).map(|_| (block(), Box::new([1_u8; 64]))).collect();
    let full = resident();
    // Small ones that stay hold the heap in its length.
    let stay: Vec<_> = blocks.drain(..).map(|(_, small)| small).collect();
    give_back_freed();
    let left = resident();
    assert!(left + (120 << 20) <= full, "{full} bytes before, {left} after");
    assert!(stay.iter().all(|small| small[0] == 1));
}
