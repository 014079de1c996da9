// Command torture attacks a server, in ways that cost the attacker little, and watches a well-behaved client meanwhile.
//
//	go run ./internal/torture                     each attack for three seconds
//	go run ./internal/torture -duration 30s -run bombs
//
// The server is a process of its own, and so is the attacker, which gets only what processor time the others leave: it would sit at other machines.
// While an attack runs, the client's round trips must stay within bounds (victim.go has them), and so must the server's memory; after it memory and
// goroutines must return to what they were. The tests do the same for a moment.
package main

import (
	"flag"
	"fmt"
	"os"
	"regexp"
	"time"
)

func main() {
	role := flag.String("role", "", "server or attacker: what a child process is to be; for the program's own use")
	addr := flag.String("addr", "", "what an attacker attacks; for the program's own use")
	duration := flag.Duration("duration", 3*time.Second, "how long each attack lasts")
	match := flag.String("run", "", "only attacks whose name matches this expression")
	flag.Parse()
	var err error
	switch *role {
	case "server":
		err = serve()
	case "attacker":
		err = strike(*match, *addr)
	default:
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
	v, err := startVictim(bounds{100 * time.Millisecond, 128 << 20})
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
