//! Benchmarks of kernels and of compile time; see `benches/benches/`. Nothing is exported.
