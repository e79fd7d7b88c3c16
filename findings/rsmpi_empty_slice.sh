#!/bin/sh
# rsmpi hands OpenMPI an empty slice of bytes at the address that OpenMPI calls MPI_IN_PLACE.
#
# The guess, before it was run: a rank that has nothing to say in a gather of varying lengths sends 0 bytes, and gets those of the others.
# Seen with mpi 0.8.2 and OpenMPI 4.1.4 (Debian 12): all_gather_varcount_into of an empty Vec<u8> ends the job with MPI_ERR_ARG. The
# address of an empty Vec<T> is the alignment of T, for bytes 1, and MPI_IN_PLACE is (void *) 1 there. An empty Vec<u8> with room for one
# byte is gathered, and so is an empty Vec<f32>, whose address is 4.
# Why it matters: whether lengths are 0 depends on data, so that a program works until one rank has nothing to say; and where MPI_IN_PLACE
# is allowed on every rank, as here with the nonblocking form, the call may be taken for another instead of refused.
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

fn gather<T: Equivalence + Copy + Default>(world: &mpi::topology::SimpleCommunicator, own: &[T], one: T) {
    // Rank 0 has nothing to say, rank 1 one number.
    let said = [one];
    let own = if world.rank() == 0 { own } else { &said };
    let (counts, places) = (vec![0, 1], vec![0, 0]);
    let mut all = vec![T::default(); 1];
    let mut parts = PartitionMut::new(&mut all[..], counts, &places[..]);
    world.all_gather_varcount_into(own, &mut parts);
}

fn main() {
    let universe = mpi::initialize().unwrap();
    let world = universe.world();
    match std::env::args().nth(1).as_deref() {
        Some("bytes") => gather(&world, &Vec::<u8>::new(), 7u8),
        Some("room") => gather(&world, &Vec::<u8>::with_capacity(1), 7u8),
        _ => gather(&world, &Vec::<f32>::new(), 7f32),
    }
    println!("gathered");
}
END
(cd "$work" && CARGO_TARGET_DIR="$work/target" cargo build -q --release)
run() {
    OMPI_ALLOW_RUN_AS_ROOT=1 OMPI_ALLOW_RUN_AS_ROOT_CONFIRM=1 timeout 60 mpirun --oversubscribe -n 2 "$work/target/release/gather" "$1" 2>&1 || true
}
for what in bytes room numbers; do
    said=$(run "$what")
    echo "$what: $(echo "$said" | grep -E 'MPI_ERR|gathered' | head -1)"
    case "$what" in
        bytes) echo "$said" | grep -q MPI_ERR_ARG ;;
        *) [ "$(echo "$said" | grep -c gathered)" = 2 ] ;;
    esac
done
