package main

import (
	"bufio"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"os"
	"os/exec"
	"slices"
	"strings"
	"time"
)

// Bounds of what an attack may do.
const (
	multiple    = 20               // p99 of a round trip, by the quiet one, if it is more than bounds.slowest
	maxLeft     = 8 << 20          // bytes of heap that may be left after it
	maxThreads  = 10               // goroutines that may be left
	recoverTime = 20 * time.Second // until then
)

// victim is a server in a process of its own.
type victim struct {
	cmd    *exec.Cmd
	addr   string
	bounds bounds
}

// bounds are those that depend on what else the machine does.
type bounds struct {
	slowest time.Duration // p99 of a round trip that is well, whatever the quiet one is: two shared cores attack, serve and measure
	growth  int           // bytes of memory during an attack
}

func startVictim(b bounds) (*victim, error) {
	self, err := os.Executable()
	if err != nil {
		return nil, err
	}
	cmd := exec.Command(self, "-role", "server")
	cmd.Stderr = os.Stderr
	out, err := cmd.StdoutPipe()
	if err != nil {
		return nil, err
	}
	if err := cmd.Start(); err != nil {
		return nil, err
	}
	addr, err := bufio.NewReader(out).ReadString('\n')
	v := &victim{cmd, strings.TrimSpace(addr), b}
	if err != nil {
		v.stop()
		return nil, fmt.Errorf("server: %w", err)
	}
	return v, nil
}

func (v *victim) stop() {
	_ = v.cmd.Process.Kill() // it may have ended
	_ = v.cmd.Wait()
}

func (v *victim) state(query string) (s state, err error) {
	c := http.Client{Timeout: 10 * time.Second, Transport: &http.Transport{DisableKeepAlives: true}}
	resp, err := c.Get("http://" + v.addr + "/state" + query)
	if err != nil {
		return s, err
	}
	defer resp.Body.Close()
	return s, json.NewDecoder(resp.Body).Decode(&s)
}

// report is how an attack went.
type report struct {
	name         string
	quiet, under time.Duration // p99 of the client's round trips
	trips        int
	peak         int // bytes that the memory grew by
	left         int // bytes of heap that were left
	done         int // what the attacker counts
	slow         int // connections that were ended because they did not read
}

func (r report) String() string {
	return fmt.Sprintf("%-28s p99 %8v, quiet %8v, %5d round trips; memory +%d MB, %+d kB left; %d times, %d slow ended", r.name,
		r.under.Round(10*time.Microsecond), r.quiet.Round(10*time.Microsecond), r.trips, r.peak>>20, r.left>>10, r.done, r.slow)
}

// errIdle says that nothing was tried: an attacker gets only what processor time is left.
var errIdle = errors.New("the attack did nothing")

// endure attacks the server and returns an error if a bound was passed.
func (v *victim) endure(a attack, d time.Duration) (r report, err error) {
	r.name = a.name
	good, err := dial(v.addr, "room:good")
	if err != nil {
		return r, err
	}
	defer good.Close()
	before, err := v.state("?gc")
	if err != nil {
		return r, err
	}
	quiet, err := good.echoFor(d / 2)
	if err != nil {
		return r, fmt.Errorf("quiet: %w", err)
	}
	r.quiet = p99(quiet)

	stop, err := startAttacker(a, v.addr)
	if err != nil {
		return r, err
	}
	end := make(chan struct{})
	watched := make(chan int)
	go func() { watched <- v.watch(end, before.RSS) }()
	trips, tripErr := good.echoFor(d)
	close(end)
	r.peak = <-watched
	r.trips, r.under = len(trips), p99(trips)
	if r.done, err = stop(); err != nil {
		return r, err
	}

	switch {
	case tripErr != nil:
		return r, fmt.Errorf("the well-behaved client: %w", tripErr)
	case r.done == 0:
		return r, errIdle
	case r.under > v.bounds.slowest && r.under > multiple*r.quiet:
		return r, fmt.Errorf("the well-behaved client waited %v", r.under)
	case r.peak > v.bounds.growth:
		return r, fmt.Errorf("memory grew by %d MB", r.peak>>20)
	}
	return v.recovered(r, before)
}

// watch is by how much the memory grew at most.
func (v *victim) watch(end chan struct{}, before int) (peak int) {
	for {
		select {
		case <-end:
			return peak
		case <-time.After(50 * time.Millisecond):
			if s, err := v.state(""); err == nil {
				peak = max(peak, s.RSS-before)
			}
		}
	}
}

// recovered waits until memory and goroutines are what they were.
func (v *victim) recovered(r report, before state) (report, error) {
	for deadline := time.Now().Add(recoverTime); ; time.Sleep(100 * time.Millisecond) {
		s, err := v.state("?gc")
		if err != nil {
			return r, fmt.Errorf("the server does not answer: %w", err)
		}
		r.left, r.slow = s.Heap-before.Heap, int(s.Stats.WebSocket.Slow-before.Stats.WebSocket.Slow)
		if r.left <= maxLeft && s.Goroutines <= before.Goroutines+maxThreads && s.Stats.Sockets <= before.Stats.Sockets {
			return r, nil
		}
		if time.Now().After(deadline) {
			return r, fmt.Errorf("left behind: %d kB of heap, %d goroutines (before: %d), %d sockets (before: %d)",
				r.left>>10, s.Goroutines, before.Goroutines, s.Stats.Sockets, before.Stats.Sockets)
		}
	}
}

func p99(all []time.Duration) time.Duration {
	if len(all) == 0 {
		return 0
	}
	slices.Sort(all)
	return all[len(all)*99/100]
}
