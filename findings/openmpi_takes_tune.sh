#!/bin/sh
# OpenMPI's mpirun takes --tune from behind the name of the program that it starts.
#
# The guess, before it was run: what stands behind the program is the program's.
# Seen with OpenMPI 4.1.4 (Debian 12): `mpirun -n 1 echo --tune off on` says that a variable file "off" can't be found, mpirun once and
# MPI_Init once in each process that calls it, and goes on; the program gets its arguments as well. So does --am, the older word for the
# same. --tune=off is left alone, and so is --tune off where nothing follows.
# Why it matters: a program with a flag --tune works alone and, under mpirun, has a parameter file looked for, and read if there is one of
# that name: settings of MPI then follow from an argument of the program. Spelt with =, it is the program's alone.
#
# Needs root (apt-get). Exit status 0: as described.
set -eu
apt-get install -y -qq openmpi-bin=4.1.4-3+b1 >/dev/null
export OMPI_ALLOW_RUN_AS_ROOT=1 OMPI_ALLOW_RUN_AS_ROOT_CONFIRM=1
cd "$(mktemp -d)"
for words in "--tune off on" "--tune=off on" "--tune off" "--am off on"; do
    said=$(mpirun -n 1 echo $words 2>&1)
    taken=$(echo "$said" | grep -c 'variable file "off"' || true)
    echo "$words: looked for as a file $taken times; the program got: $(echo "$said" | tail -1)"
    [ "$(echo "$said" | tail -1)" = "$words" ]
    case "$words" in
        "--tune off on" | "--am off on") [ "$taken" -ge 1 ] ;;
        *) [ "$taken" = 0 ] ;;
    esac
done
