// Threads that run a program together.
#pragma once

// Runs `job(argument, thread, threads)` on so many threads at once, the caller being thread 0, and returns when all
// have ended. The threads are started when they are first asked for, and kept.
void run_together(int threads, void (*job)(void*, int, int), void* argument);

// Waits until all threads of the job have come to this point.
void wait_for_all(int threads);
