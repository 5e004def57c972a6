package ort

/*
#include <stddef.h>

// glibc's, absent from musl and macOS: a null pointer there.
extern int malloc_trim(size_t pad) __attribute__((weak));

static void give_back(void) {
	if (malloc_trim) malloc_trim(0);
}
*/
import "C"

// giveBackMemory returns freed C memory to the system. glibc keeps what a closed session held: hundreds of megabytes
// after a few models came and went.
func giveBackMemory() { C.give_back() }
