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

// size is the resource usage of a process.
type size struct {
	Goroutines int
	Heap, RSS  int // in bytes; RSS is 0 where there is no /proc
}

// measure measures this process. If gc is true, it first releases unused memory.
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

// grew returns an error if s exceeds before by more than the given amounts. RSS is reported but not
// checked, because the runtime decides how much to keep.
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

// sizes are the sizes in the verdict.
type sizes struct {
	empty, emptied size // the first server before the clients connected, and the last one after they closed
	first, last    size // the last server when it first settled and when it last settled
	here, hereEnd  size // this process before and after the clients
}

// verdict returns the result and the totals in one line. A run that ended early may not have
// checked everything.
func (r *run) verdict(err error, seed uint64, took time.Duration) string {
	word := "PASS"
	if err != nil {
		word = "FAIL"
	}
	sum := func(whats ...string) (n int) {
		for _, what := range whats {
			n += r.report.counted(what)
		}
		return n
	}
	connections := sum("connections by websocket", "connections by longpoll", "connections of raw clients")
	disturbed := sum("connections cut", "connections reset", "connections vanished",
		"connections stalled", "connections stalled for long")
	totals := fmt.Sprintf("%d messages received, %d replies, %d reconnects, %d joins, %d restarts, "+
		"%d connections disturbed, %d users disconnected, %d channels crashed, "+
		"%d frames dropped by policy, %d of them missed; %d faults found",
		sum("received"), sum("replies", "replies to raw clients"), max(0, connections-r.count), sum("intervals"),
		sum("restarts"), disturbed, sum("users disconnected"), r.crashes, r.dropped, sum("missed"), sum("faults found"))
	growth := fmt.Sprintf("server without clients: %s; with %d clients, after %v: %s; clients' process: %s",
		r.sizes.empty.to(r.sizes.emptied), r.count, r.settledFor.Round(time.Second), r.sizes.first.to(r.sizes.last),
		r.sizes.here.to(r.sizes.hereEnd))
	return fmt.Sprintf("%s: %v with seed %d; %s; %s", word, took.Round(time.Second), seed, totals, growth)
}
