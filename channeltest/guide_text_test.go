package channeltest_test

import (
	"os"
	"strings"
	"testing"
)

// TestGuide checks that the first test of the guide is guide_test.go, which runs.
func TestGuide(t *testing.T) {
	guide, err := os.ReadFile("../docs/testing.md")
	if err != nil {
		t.Fatal(err)
	}
	program, err := os.ReadFile("guide_test.go")
	if err != nil {
		t.Fatal(err)
	}
	want := strings.Replace(string(program), "package channeltest_test\n", "package room\n", 1)
	if !strings.Contains(string(guide), "```go\n"+want+"```\n") {
		t.Error("docs/testing.md does not have the text of guide_test.go")
	}
}
