package main

import (
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
)

// startAttacker starts an attack in a child process and returns when that process runs. The stop
// function ends the attack and returns its count.
func startAttacker(a attack, addr string) (stop func() (done int, err error), err error) {
	self, err := os.Executable()
	if err != nil {
		return nil, err
	}
	args := []string{self, "-role", "attacker", "-addr", addr, "-run", a.name}
	if nice, err := exec.LookPath("nice"); err == nil {
		args = append([]string{nice, "-n", "19"}, args...)
	}
	cmd := exec.Command(args[0], args[1:]...)
	cmd.Stderr = os.Stderr
	in, err := cmd.StdinPipe()
	if err != nil {
		return nil, err
	}
	out, err := cmd.StdoutPipe()
	if err != nil {
		return nil, err
	}
	if err := cmd.Start(); err != nil {
		return nil, err
	}
	stop = func() (done int, err error) {
		_ = in.Close() // the process may have ended already: its output shows whether it attacked
		_, scanErr := fmt.Fscan(out, &done)
		if err := cmd.Wait(); err != nil {
			return 0, fmt.Errorf("attacker: %w", err)
		}
		if scanErr != nil {
			return 0, fmt.Errorf("attacker: no count in its output: %w", scanErr)
		}
		return done, nil
	}
	// A process with the least priority may take seconds to start while other tests run.
	var word string
	if _, err := fmt.Fscan(out, &word); err != nil || word != attackerReady {
		_, stopErr := stop()
		return nil, fmt.Errorf("attacker: not ready: %w", errors.Join(err, stopErr))
	}
	return stop, nil
}

// attackerReady is the first word of an attacker's output.
const attackerReady = "ready"

// runAttacker runs an attack until the standard input ends, and prints its count.
func runAttacker(name, addr string) error {
	end := make(chan struct{})
	go func() {
		defer close(end)
		_, _ = io.Copy(io.Discard, os.Stdin) // an error is an end, too
	}()
	for _, a := range attacks {
		if a.name == name {
			fmt.Println(attackerReady)
			fmt.Println(a.run(addr, end))
			return nil
		}
	}
	return fmt.Errorf("unknown attack %q", name)
}
