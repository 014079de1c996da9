package main

import (
	"fmt"
	"os"
	"runtime"
	"runtime/debug"
	"strconv"
	"strings"
	"time"
)

// size is what a process takes of its machine.
type size struct {
	Goroutines int
	Heap, RSS  int // bytes; no RSS where there is no /proc
}

// measure measures this process, after it gave back what it does not need if asked to.
func measure(gc bool) size {
	if gc {
		debug.FreeOSMemory()
	}
	var m runtime.MemStats
	runtime.ReadMemStats(&m)
	s := size{Goroutines: runtime.NumGoroutine(), Heap: int(m.HeapInuse)}
	if statm, err := os.ReadFile("/proc/self/statm"); err == nil {
		if f := strings.Fields(string(statm)); len(f) > 1 {
			pages, _ := strconv.Atoi(f[1])
			s.RSS = pages * os.Getpagesize()
		}
	}
	return s
}

// grew is an error if s is by more than that larger than before. RSS is told, not judged: what the runtime keeps is its own affair.
func (s size) grew(before size, goroutines, heap int) error {
	if s.Goroutines > before.Goroutines+goroutines || s.Heap > before.Heap+heap {
		return fmt.Errorf("grew: %s", before.to(s))
	}
	return nil
}

func (s size) to(end size) string {
	return fmt.Sprintf("goroutines %d to %d, heap %d to %d kB, RSS %d to %d kB",
		s.Goroutines, end.Goroutines, s.Heap>>10, end.Heap>>10, s.RSS>>10, end.RSS>>10)
}

// sizes are those that the verdict tells.
type sizes struct {
	empty, emptied size // the first server before there were clients, and the last one after them
	first, last    size // the last server in its first quiet moment, and in its last
	here, hereEnd  size // this process, before there were clients and after them
}

// verdict is one line: whether all was well, and what was seen. A run that ended early has not seen all of it.
func (r *run) verdict(err error, seed uint64, took time.Duration) string {
	word := "PASS"
	if err != nil {
		word = "FAIL"
	}
	sum := func(whats ...string) (n int) {
		for _, what := range whats {
			n += r.book.counted(what)
		}
		return n
	}
	connections := sum("connections by websocket", "connections by longpoll", "connections of strangers")
	return fmt.Sprintf("%s: %v with seed %d; %d messages heard, %d replies, %d reconnects, %d joins, %d restarts, "+
		"%d connections harmed, %d users disconnected, %d channels crashed, %d frames dropped by policy, %d of them missed; %d faults found; "+
		"server without clients: %s; with %d clients, %v apart: %s; clients' process: %s",
		word, took.Round(time.Second), seed, sum("heard"), sum("replies", "replies to strangers"), max(0, connections-len(r.guests)-len(r.others)),
		sum("intervals"), sum("restarts"), sum("connections cut", "connections reset", "connections vanished", "connections stalled",
			"connections stalled for long"), sum("users disconnected"), r.crashes, r.dropped, sum("missed"), sum("faults found"),
		r.sizes.empty.to(r.sizes.emptied), len(r.guests)+len(r.others), r.settledFor.Round(time.Second), r.sizes.first.to(r.sizes.last),
		r.sizes.here.to(r.sizes.hereEnd))
}
