"""The threads of pyx/team.h in orders of events that hardly ever come about, from C programs of their own."""

import os
import shutil
import subprocess
from pathlib import Path

import pytest

HEADERS = Path(__file__).parent.parent / "pyx"
COMPILER = shutil.which(os.environ.get("CC", "cc"))

pytestmark = pytest.mark.skipif(
    os.name != "posix" or COMPILER is None or not HEADERS.is_dir(), reason="needs a C compiler and pyx"
)

# `before_closed` runs where a worker is about to see whether the call is over.
BEGIN = """
#include <stdatomic.h>
#include <string.h>
#include <unistd.h>
static void before_closed(void);
#undef atomic_load
#define atomic_load(p) \\
    (strcmp(#p, "&team->closed") ? (void)0 : before_closed(), atomic_load_explicit(p, memory_order_seq_cst))
#include "team.h"
typedef struct { clstm_team team; } job_t;
"""


def assert_ends_well(code, folder):
    source, program = folder / "team.c", folder / "team"
    source.write_text(BEGIN + code)
    flags = ["-std=c11", "-D_GNU_SOURCE", "-O1", "-pthread", f"-I{HEADERS}"]
    subprocess.run([COMPILER, *flags, source, "-o", program], check=True, capture_output=True, timeout=60)
    done = subprocess.run([program], check=False, timeout=60)
    assert done.returncode == 0


def test_member_that_finds_the_call_over_is_not_waited_for_in_vain(tmp_path):
    """It has looked just before it was let in, and sleeps until all work is done."""
    code = """
static atomic_int looked, over;
static void before_closed(void)
{
    looked = 1;
    while (!over)
        usleep(1000);
}
static void work(void *job, int thread)
{
    if (thread == 0) {
        while (!looked)
            usleep(1000);
        clstm_let_in(&((job_t *)job)->team);
    }
}
static void *wake(void *unused)
{
    while (!looked)
        usleep(1000);
    usleep(100000); /* number 0 waits in clstm_close by now */
    over = 1;
    return unused;
}
int main(void)
{
    job_t job;
    pthread_t thread;
    alarm(30);
    clstm_begin(&job.team, 0);
    pthread_create(&thread, NULL, wake, NULL);
    clstm_run(2, work, &job, sizeof(job), &job.team);
    return 0;
}
"""
    assert_ends_well(code, tmp_path)


def test_wait_for_the_last_member_is_no_saving(tmp_path):
    """Calls whose pieces are taken without barriers wait only at their end."""
    code = """
static void before_closed(void) {}
static void work(void *job, int thread)
{
    (void)job;
    if (thread)
        usleep(100000);
}
int main(void)
{
    job_t job;
    alarm(30);
    clstm_begin(&job.team, 0);
    clstm_patient = 1;
    clstm_run(2, work, &job, sizeof(job), &job.team);
    clstm_patient = 0;
    return !clstm_solo();
}
"""
    assert_ends_well(code, tmp_path)
