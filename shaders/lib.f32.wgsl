// Storage in single precision.
alias real4 = vec4<f32>;

fn load4(stored: real4) -> vec4<f32> {
    return stored;
}

fn store4(value: vec4<f32>) -> real4 {
    return value;
}
