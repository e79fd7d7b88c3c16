// What the variants `subgroup` share: no workgroup memory, no barriers; what all lanes need is loaded once, a share by each lane,
// and handed round by subgroupShuffle. Drivers that compute on the CPU spend most of their time on loads, so there are few of them.
//
// Loops run exactly to the lengths of the arrays that they index: drivers then unroll them into registers.

override LANES = 8u;    // in a workgroup, which is one subgroup or a part of one: 4, 8, 16 or 32

struct SubgroupInvocation {
    @builtin(subgroup_invocation_id) lane: u32,
}
