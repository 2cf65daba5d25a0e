//! The kernels' arguments, as `selective_scan.cu` declares them.

use super::Address;

/// `struct Forward`
#[repr(C)]
pub(super) struct Forward {
    pub u: Address,
    pub delta: Address,
    pub a: Address,
    pub b: Address,
    pub c: Address,
    pub d: Address,
    pub z: Address,
    pub delta_bias: Address,
    pub initial_state: Address,
    pub y: Address,
    pub last_state: Address,
    pub kept: Address,
    pub frames: i32,
    pub channels: i32,
    pub delta_softplus: i32,
}

/// `struct Backward`
#[repr(C)]
pub(super) struct Backward {
    pub u: Address,
    pub delta: Address,
    pub a: Address,
    pub b: Address,
    pub c: Address,
    pub d: Address,
    pub z: Address,
    pub delta_bias: Address,
    pub kept: Address,
    pub grad_y: Address,
    pub grad_last_state: Address,
    pub grad_u: Address,
    pub grad_delta: Address,
    pub grad_z: Address,
    pub grad_initial_state: Address,
    pub sums_b: Address,
    pub sums_c: Address,
    pub sums_a: Address,
    pub sums_d: Address,
    pub sums_delta_bias: Address,
    pub sequences: i64,
    pub frames: i32,
    pub channels: i32,
    pub delta_softplus: i32,
}

/// `struct Sum`
#[repr(C)]
pub(super) struct Sum {
    pub from: Address,
    pub to: Address,
    pub rows: i64,
    pub columns: i64,
}
