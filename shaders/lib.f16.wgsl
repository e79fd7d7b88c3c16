// Storage in half precision, packed by hand: every device can, with or without 16-bit types in shaders, and there is nothing
// to win by those, since all arithmetic is f32. Beyond 65,504 a number becomes infinite, which the scale of the loss heeds.
alias real4 = vec2<u32>;

fn load4(stored: real4) -> vec4<f32> {
    return vec4<f32>(unpack2x16float(stored.x), unpack2x16float(stored.y));
}

fn store4(value: vec4<f32>) -> real4 {
    return vec2<u32>(pack2x16float(value.xy), pack2x16float(value.zw));
}
