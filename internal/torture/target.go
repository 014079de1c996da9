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

// Bounds on the effects of an attack.
const (
	maxSlowdown   = 20               // ratio of the p99 of round trips to the quiet one; see bounds.slowest
	maxLeft       = 8 << 20          // growth of the heap after the attack, in bytes
	maxGoroutines = 10               // additional goroutines after the attack
	recoverTime   = 20 * time.Second // time until the previous two are met
)

// target is a server in a child process.
type target struct {
	cmd    *exec.Cmd
	addr   string
	bounds bounds
}

// bounds are the bounds that depend on the machine's other load.
type bounds struct {
	// slowest is a p99 of round trips that is always good enough. Without it, maxSlowdown would be
	// exceeded by chance: attacker, server and client may share two cores.
	slowest time.Duration
	growth  int // of the server's memory during an attack, in bytes
}

func startTarget(b bounds) (*target, error) {
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
	t := &target{cmd, strings.TrimSpace(addr), b}
	if err != nil {
		t.stop()
		return nil, fmt.Errorf("server: %w", err)
	}
	return t, nil
}

func (t *target) stop() {
	_ = t.cmd.Process.Kill() // it may have ended already
	_ = t.cmd.Wait()
}

func (t *target) state(query string) (s state, err error) {
	c := http.Client{Timeout: 10 * time.Second, Transport: &http.Transport{DisableKeepAlives: true}}
	resp, err := c.Get("http://" + t.addr + "/state" + query)
	if err != nil {
		return s, err
	}
	defer resp.Body.Close()
	return s, json.NewDecoder(resp.Body).Decode(&s)
}

// report is the result of an attack.
type report struct {
	name         string
	quiet, under time.Duration // p99 of the client's round trips, before and during the attack
	trips        int           // round trips during the attack
	peak         int           // growth of the server's memory during the attack, in bytes
	left         int           // growth of its heap after the attack, in bytes
	done         int           // the attacker's count
	slow         int           // connections that the server closed because the client did not read
}

func (r report) String() string {
	return fmt.Sprintf("%-28s p99 %8v, quiet %8v, %5d round trips; memory +%d MB, %+d kB left; "+
		"%d times, %d slow connections closed",
		r.name, r.under.Round(10*time.Microsecond), r.quiet.Round(10*time.Microsecond), r.trips,
		r.peak>>20, r.left>>10, r.done, r.slow)
}

// errIdle means that the attacker did nothing, because other processes used all processor time.
var errIdle = errors.New("the attack did nothing")

// attack runs an attack for d and returns an error if it exceeds a bound.
func (t *target) attack(a attack, d time.Duration) (r report, err error) {
	r.name = a.name
	good, err := dial(t.addr, "room:good")
	if err != nil {
		return r, err
	}
	defer good.Close()
	before, err := t.state("?gc")
	if err != nil {
		return r, err
	}
	quiet, err := good.echoFor(d / 2)
	if err != nil {
		return r, fmt.Errorf("before the attack: %w", err)
	}
	r.quiet = p99(quiet)

	stop, err := startAttacker(a, t.addr)
	if err != nil {
		return r, err
	}
	end := make(chan struct{})
	watched := make(chan int)
	go func() { watched <- t.watch(end, before.RSS) }()
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
	case r.under > t.bounds.slowest && r.under > maxSlowdown*r.quiet:
		return r, fmt.Errorf("the p99 of the well-behaved client is %v", r.under)
	case r.peak > t.bounds.growth:
		return r, fmt.Errorf("memory grew by %d MB", r.peak>>20)
	}
	return t.waitRecovered(r, before)
}

// watch returns the maximum growth of the server's memory until end is closed.
func (t *target) watch(end chan struct{}, before int) (peak int) {
	for {
		select {
		case <-end:
			return peak
		case <-time.After(50 * time.Millisecond):
			if s, err := t.state(""); err == nil {
				peak = max(peak, s.RSS-before)
			}
		}
	}
}

// waitRecovered waits until the server has released what the attack used.
func (t *target) waitRecovered(r report, before state) (report, error) {
	for deadline := time.Now().Add(recoverTime); ; time.Sleep(100 * time.Millisecond) {
		s, err := t.state("?gc")
		if err != nil {
			return r, fmt.Errorf("server: %w", err)
		}
		r.left, r.slow = s.Heap-before.Heap, int(s.Stats.WebSocket.Slow-before.Stats.WebSocket.Slow)
		if r.left <= maxLeft && s.Goroutines <= before.Goroutines+maxGoroutines && s.Stats.Sockets <= before.Stats.Sockets {
			return r, nil
		}
		if time.Now().After(deadline) {
			return r, fmt.Errorf("not released: %d kB of heap, %d goroutines (before: %d), %d sockets (before: %d)",
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
