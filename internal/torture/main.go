// Command torture attacks a server in ways that cost the attacker little, and measures how this
// affects a well-behaved client.
//
//	go run ./internal/torture                            each attack for three seconds
//	go run ./internal/torture -duration 30s -run bombs   the attacks whose names match
//	go test ./internal/torture                           each attack for one second
//
// The server and the attacker are child processes. The attacker runs with the lowest priority,
// because real attackers run on other machines. During an attack, the client's round trips and the
// server's memory must stay within bounds. After it, the server's memory and goroutines must return
// to what they were before. The bounds are in target.go.
package main

import (
	"flag"
	"fmt"
	"os"
	"regexp"
	"time"
)

func main() {
	role := flag.String("role", "", "role of a child process, server or attacker; internal")
	addr := flag.String("addr", "", "address of the server; internal")
	duration := flag.Duration("duration", 3*time.Second, "duration of each attack")
	match := flag.String("run", "", "run only the attacks whose names match this regular expression")
	flag.Parse()
	var err error
	switch *role {
	case "server":
		err = serve()
	case "attacker":
		err = runAttacker(*match, *addr)
	default:
		err = run(*match, *duration)
	}
	if err != nil {
		fmt.Fprintln(os.Stderr, "torture:", err)
		os.Exit(1)
	}
}

// run runs the attacks whose names match and prints a line for each.
func run(match string, d time.Duration) error {
	re, err := regexp.Compile(match)
	if err != nil {
		return err
	}
	t, err := startTarget(bounds{100 * time.Millisecond, 128 << 20})
	if err != nil {
		return err
	}
	defer t.stop()
	failed := 0
	for _, a := range attacks {
		if !re.MatchString(a.name) {
			continue
		}
		r, err := t.attack(a, d)
		fmt.Println(r)
		if err != nil {
			fmt.Println("  FAILED:", err)
			failed++
		}
	}
	if failed > 0 {
		return fmt.Errorf("%d attacks exceeded a bound", failed)
	}
	return nil
}
