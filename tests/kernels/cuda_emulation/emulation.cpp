/* SPDX-License-Identifier: Apache-2.0
 *
 * Blocks, their threads, and what these wait for. */
#include "tests/kernels/cuda_emulation/emulation.hpp"

#include <sys/mman.h>

#include <cstdlib>
#include <cstring>
#include <vector>

#include "tests/kernels/cuda_emulation/fiber.hpp"

namespace emulation
{

static constexpr uint32_t MAX_THREADS = 256;
static constexpr size_t STACK_BYTES = size_t{256} << 10;
static constexpr size_t MAX_SHARED = size_t{228} << 10;

struct copy {
    unsigned char *to;
    const void *from; /* NULL: zeros */
};

enum class state { RUNNABLE, WAITING, FINISHED };

struct thread {
    fiber stack;
    enum state state;
    collective what; /* if WAITING */
    void *words;
    std::vector<copy> open;                /* copies of no group yet */
    std::vector<std::vector<copy>> groups; /* the oldest first */
    std::vector<copy> landed;              /* waited for, but no barrier has shown them to other threads */
};

static thread threads[MAX_THREADS];
static fiber scheduler;
static place now;
static const launch *current;
static std::string error;
static unsigned char *stacks, *shared; /* shared ends where an unreadable page starts */
static uint64_t random_state;

const place &here()
{
    return now;
}

unsigned char *shared_memory(uint32_t byte)
{
    return shared + byte;
}

const char *shared_fault(uint32_t address)
{
    if (address % 16 != 0)
        return "shared address is not a multiple of 16";
    if (address < SHARED_ADDRESS || address - SHARED_ADDRESS + 16 > current->shared_bytes)
        return "address out of shared memory";
    return nullptr;
}

static void suspend()
{
    thread &self = threads[now.thread];
    scheduler.resume(self.stack);
}

/* Ends the launch: a thread that failed never runs again. */
static void fail(const char *what)
{
    if (error.empty())
        error = std::string(what) + ": thread " + std::to_string(now.thread) + " of block " +
                std::to_string(now.block[0]) + ", " + std::to_string(now.block[1]) + ", " +
                std::to_string(now.block[2]);
    threads[now.thread].state = state::WAITING;
    suspend();
}

static void release(uint32_t first, uint32_t n)
{
    for (uint32_t i = first; i < first + n; i++)
        threads[i].state = state::RUNNABLE;
}

/* True if all n threads from `first` on wait for the same. One that waits for something else, or has ended, is found out
 * when nothing runs any more. */
static bool all_wait(uint32_t first, uint32_t n, collective what)
{
    for (uint32_t i = first; i < first + n; i++)
        if (threads[i].state != state::WAITING || threads[i].what != what)
            return false;
    return true;
}

/* Stricter than hardware, which shows a thread its own copies without a barrier: no kernel has a use for that. */
static void publish(thread &self)
{
    for (const copy &c : self.landed)
        c.from ? memcpy(c.to, c.from, 16) : memset(c.to, 0, 16);
    self.landed.clear();
}

void meet(collective what, void *words)
{
    thread &self = threads[now.thread];
    const bool whole_block = what == collective::BLOCK_BARRIER;
    const uint32_t first = whole_block ? 0 : now.thread / 32 * 32;
    const uint32_t n = whole_block ? now.n_threads : 32;

    self.state = state::WAITING;
    self.what = what;
    self.words = words;
    if (what == collective::BLOCK_BARRIER || what == collective::WARP_BARRIER)
        publish(self);
    if (all_wait(first, n, what)) {
        if (!whole_block) {
            void *of_lanes[32];
            for (uint32_t lane = 0; lane < 32; lane++)
                of_lanes[lane] = threads[first + lane].words;
            const char *fault = warp_collective(what, of_lanes);
            if (fault)
                fail(fault);
        }
        release(first, n);
        if (current->seed == 0)
            return;
    }
    suspend();
}

void copy_async(uint32_t to, const void *global, bool real)
{
    thread &self = threads[now.thread];
    const char *fault = shared_fault(to);

    if (fault)
        fail(fault);
    if (reinterpret_cast<uintptr_t>(global) % 16 != 0)
        fail("global address of a copy is not a multiple of 16");
    if (real && current->may_read && !current->may_read(reinterpret_cast<uintptr_t>(global)))
        fail("a copy reads what it may not");
    self.open.push_back({shared_memory(to - SHARED_ADDRESS), real ? global : nullptr});
    memset(self.open.back().to, 0xff, 16);
}

void copy_commit()
{
    thread &self = threads[now.thread];
    self.groups.push_back(std::move(self.open));
    self.open.clear();
}

void copy_wait(unsigned n)
{
    thread &self = threads[now.thread];
    while (self.groups.size() > n) {
        self.landed.insert(self.landed.end(), self.groups.front().begin(), self.groups.front().end());
        self.groups.erase(self.groups.begin());
    }
}

static void thread_main()
{
    current->kernel();
    threads[now.thread].state = state::FINISHED;
    suspend();
    abort(); /* a finished thread is never resumed */
}

static uint32_t random_below(uint32_t n)
{
    random_state = random_state * 6364136223846793005u + 1442695040888963407u; /* Knuth's MMIX */
    return static_cast<uint32_t>((random_state >> 33) % n);
}

/* The next thread to run: in turn from `after`, or any. n_threads: none can. */
static uint32_t next_thread(uint32_t after)
{
    const uint32_t from = current->seed ? random_below(now.n_threads) : after;
    for (uint32_t i = 0; i < now.n_threads; i++)
        if (threads[(from + i) % now.n_threads].state == state::RUNNABLE)
            return (from + i) % now.n_threads;
    return now.n_threads;
}

static void check_end()
{
    for (uint32_t i = 0; i < now.n_threads && error.empty(); i++)
        if (threads[i].state == state::WAITING)
            error = "threads part: thread " + std::to_string(i) + " waits in collective " +
                    std::to_string(static_cast<int>(threads[i].what)) + " for others that never come";
}

static void run_block()
{
    memset(shared, 0xff, current->shared_bytes);
    for (uint32_t i = 0; i < now.n_threads; i++) {
        threads[i].state = state::RUNNABLE;
        threads[i].open.clear();
        threads[i].groups.clear();
        threads[i].landed.clear();
        threads[i].stack.start(stacks + i * STACK_BYTES, STACK_BYTES, thread_main);
    }
    for (uint32_t i = next_thread(0); i < now.n_threads && error.empty(); i = next_thread(i)) {
        now.thread = i;
        threads[i].stack.resume(scheduler);
    }
    check_end();
}

static bool reserve()
{
    const size_t page = 4096;
    if (stacks)
        return true;
    void *s = mmap(nullptr, MAX_THREADS * STACK_BYTES, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    void *m = mmap(nullptr, MAX_SHARED + page, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    if (s == MAP_FAILED || m == MAP_FAILED || mprotect(static_cast<char *>(m) + MAX_SHARED, page, PROT_NONE) != 0)
        return false;
    stacks = static_cast<unsigned char *>(s);
    shared = static_cast<unsigned char *>(m);
    return true;
}

std::string run(const launch &l)
{
    if (!reserve())
        return "no memory";
    if (l.threads % 32 != 0 || l.threads == 0 || l.threads > MAX_THREADS || l.shared_bytes > MAX_SHARED)
        return "a launch out of bounds";
    unsigned char *const start = shared;
    shared += MAX_SHARED - (l.shared_bytes + 127) / 128 * 128;
    current = &l;
    error.clear();
    random_state = l.seed;
    now.n_threads = l.threads;
    memcpy(now.grid, l.grid, sizeof(now.grid));
    for (now.block[2] = 0; now.block[2] < l.grid[2]; now.block[2]++)
        for (now.block[1] = 0; now.block[1] < l.grid[1]; now.block[1]++)
            for (now.block[0] = 0; now.block[0] < l.grid[0] && error.empty(); now.block[0]++)
                run_block();
    shared = start;
    return error;
}

} // namespace emulation
