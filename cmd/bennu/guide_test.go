package main

import (
	"bufio"
	"context"
	"net"
	"os"
	"os/exec"
	"regexp"
	"strings"
	"syscall"
	"testing"

	"github.com/rs/zerolog"

	chat "bennu.example/examples/chat/room"
	"bennu.example/internal/testenv/require"
)

// serveChat serves examples/chat and returns its address.
func serveChat(t *testing.T) string {
	t.Helper()
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	served := make(chan error, 1)
	go func() { served <- chat.Serve(ctx, ln, chat.Config{Logger: zerolog.Nop()}) }()
	t.Cleanup(func() {
		cancel()
		if err := <-served; err != nil && !strings.Contains(err.Error(), "Server closed") {
			t.Error(err)
		}
	})
	return ln.Addr().String()
}

// TestGuide runs the commands of the README and of the guides with the chat, as they stand there
// except for the address. Those that stay are interrupted after their first line of output.
func TestGuide(t *testing.T) {
	require.Program(t, "sh")
	addr := serveChat(t)
	ran := 0
	for _, guide := range []string{"../../README.md", "../../docs/command-line.md"} {
		text, err := os.ReadFile(guide)
		if err != nil {
			t.Fatal(err)
		}
		for _, m := range regexp.MustCompile("(?m)^.*go run ./cmd/bennu .*$").FindAllString(string(text), -1) {
			ran++
			runLine(t, strings.NewReplacer("go run ./cmd/bennu", `"$BENNU" -role`, "localhost:4000", addr).Replace(m))
		}
	}
	if ran < 5 {
		t.Errorf("the guides have %d commands", ran)
	}
}

// stays matches the commands that only Ctrl-C ends.
var stays = regexp.MustCompile(`^exec .* (join|watch|.*--follow)`)

// runLine runs a line of a guide until it has printed something, and interrupts it if it stays.
func runLine(t *testing.T, l string) {
	t.Helper()
	if !strings.Contains(l, "|") {
		l = "exec " + l // so that the signal reaches the command
	}
	cmd := exec.Command("sh", "-c", l)
	cmd.Env = append(os.Environ(), "BENNU="+os.Args[0])
	var notes strings.Builder
	cmd.Stderr = &notes
	in, err := cmd.StdinPipe() // stays open
	if err != nil {
		t.Fatal(err)
	}
	defer in.Close()
	out, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	sc := bufio.NewScanner(out)
	printed := sc.Scan()
	if stays.MatchString(l) {
		_ = cmd.Process.Signal(syscall.SIGINT) // fails if it has ended
	}
	for sc.Scan() { // the pipe must be read until its end before Wait
	}
	if err := cmd.Wait(); err != nil || !printed || notes.Len() > 0 {
		t.Errorf("%s: %v, it has printed something: %v\n%s", l, err, printed, notes.String())
	}
}
