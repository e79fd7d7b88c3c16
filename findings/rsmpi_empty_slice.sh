#!/bin/sh
# rsmpi hands OpenMPI an empty buffer of bytes at the address that OpenMPI calls MPI_IN_PLACE.
#
# The guess, before it was run: ranks that have nothing to say in a gather of varying lengths gather nothing.
# Seen with mpi 0.8.2 and OpenMPI 4.1.4 (Debian 12): immediate_all_gather_varcount_into of empty Vec<u8> into an empty one ends the job with
# MPI_ERR_ARG. The address of an empty Vec<T> is the alignment of T, for bytes 1, and MPI_IN_PLACE is (void *) 1 there, which may not
# stand for what is received. With a Vec<u8> that has room for a byte, and with an empty Vec<f32>, whose address is 4, nothing is gathered,
# as it should be.
# Why it matters: whether all lengths are 0 depends on data, so that a program works until no rank has anything to say.
#
# Needs root (apt-get), cargo. Installs into a temporary folder, but for the packages. Exit status 0: as described.
set -eu
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
apt-get install -y -qq openmpi-bin=4.1.4-3+b1 libopenmpi-dev=4.1.4-3+b1 libclang-dev >/dev/null
mkdir "$work/src"
cat >"$work/Cargo.toml" <<'END'
[package]
name = "gather"
version = "0.0.0"
edition = "2021"
[dependencies]
mpi = "=0.8.2"
END
cat >"$work/src/main.rs" <<'END'
use mpi::datatype::PartitionMut;
use mpi::traits::*;

fn gather<T: Equivalence>(world: &mpi::topology::SimpleCommunicator, own: &[T], mut all: Vec<T>) {
    let (counts, places) = (vec![0, 0], vec![0, 0]);
    let mut parts = PartitionMut::new(&mut all[..], counts, &places[..]);
    mpi::request::scope(|scope| world.immediate_all_gather_varcount_into(scope, own, &mut parts).wait_without_status());
}

fn main() {
    let universe = mpi::initialize().unwrap();
    let world = universe.world();
    match std::env::args().nth(1).as_deref() {
        Some("bytes") => gather(&world, &Vec::<u8>::new(), Vec::<u8>::new()),
        Some("room") => gather(&world, &Vec::<u8>::with_capacity(1), Vec::<u8>::with_capacity(1)),
        _ => gather(&world, &Vec::<f32>::new(), Vec::<f32>::new()),
    }
    println!("gathered");
}
END
(cd "$work" && CARGO_TARGET_DIR="$work/target" cargo build -q --release)
run() {
    OMPI_ALLOW_RUN_AS_ROOT=1 OMPI_ALLOW_RUN_AS_ROOT_CONFIRM=1 timeout 20 mpirun --oversubscribe -n 2 "$work/target/release/gather" "$1" 2>&1 || true
}
for what in bytes room numbers; do
    said=$(run "$what")
    echo "$what: $(echo "$said" | grep -E 'MPI_ERR|gathered' | head -1)"
    case "$what" in
        bytes) echo "$said" | grep -q MPI_ERR_ARG ;;
        *) [ "$(echo "$said" | grep -c gathered)" = 2 ] ;;
    esac
done
