package main

import (
	"fmt"
	"io"
	"os"
	"os/exec"
	"strings"
)

// startAttacker attacks from a process of its own, whose end is stop. It returns how often it attacked.
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
	var out strings.Builder
	cmd.Stdout, cmd.Stderr = &out, os.Stderr
	in, err := cmd.StdinPipe()
	if err != nil {
		return nil, err
	}
	if err := cmd.Start(); err != nil {
		return nil, err
	}
	return func() (done int, err error) {
		_ = in.Close() // it may have ended; what it said tells
		if err := cmd.Wait(); err != nil {
			return 0, fmt.Errorf("attacker: %w", err)
		}
		if _, err := fmt.Sscan(out.String(), &done); err != nil {
			return 0, fmt.Errorf("attacker: said %q: %w", out.String(), err)
		}
		return done, nil
	}, nil
}

// strike is the attacker: it attacks until its input ends, and says how often it did.
func strike(name, addr string) error {
	end := make(chan struct{})
	go func() {
		defer close(end)
		_, _ = io.Copy(io.Discard, os.Stdin) // whatever ends it
	}()
	for _, a := range attacks {
		if a.name == name {
			fmt.Println(a.run(addr, end))
			return nil
		}
	}
	return fmt.Errorf("no attack %q", name)
}
