// Command torture attacks a server, in ways that cost the attacker little, and watches a well-behaved client meanwhile.
//
//	go run ./internal/torture                     each attack for three seconds
//	go run ./internal/torture -duration 30s -run bombs
//
// The server is a process of its own. While an attack runs, the client's round trips must stay within bounds, and so must the server's memory; after it
// memory and goroutines must return to what they were. The tests do the same for a moment.
package main

import (
	"flag"
	"fmt"
	"os"
	"regexp"
	"time"
)

func main() {
	role := flag.String("role", "", "server: what a child process is to be; for the program's own use")
	duration := flag.Duration("duration", 3*time.Second, "how long each attack lasts")
	match := flag.String("run", "", "only attacks whose name matches this expression")
	flag.Parse()
	var err error
	if *role == "server" {
		err = serve()
	} else {
		err = run(*match, *duration)
	}
	if err != nil {
		fmt.Fprintln(os.Stderr, "torture:", err)
		os.Exit(1)
	}
}

func run(match string, d time.Duration) error {
	re, err := regexp.Compile(match)
	if err != nil {
		return err
	}
	v, err := startVictim()
	if err != nil {
		return err
	}
	defer v.stop()
	failed := 0
	for _, a := range attacks {
		if !re.MatchString(a.name) {
			continue
		}
		r, err := v.endure(a, d)
		fmt.Println(r)
		if err != nil {
			fmt.Println("  FAILED:", err)
			failed++
		}
	}
	if failed > 0 {
		return fmt.Errorf("%d attacks did harm", failed)
	}
	return nil
}
