package interop_test

import (
	"os"
	"regexp"
	"strings"
	"testing"
)

// socketModule is the project's own client with the API of phoenix.js.
const socketModule = "../../js/socket.mjs"

// TestSocketModule runs the scenarios of the stock phoenix.js with js/socket.mjs.
func TestSocketModule(t *testing.T) {
	t.Parallel()
	for _, name := range []string{"scenarios/websocket", "scenarios/longpoll", "presence/websocket"} {
		suite, transport, _ := strings.Cut(name, "/")
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			runVersion(t, suite, transport, socketModule)
		})
	}
}

// TestAPI runs each row of the table in js/README.md with the stock phoenix.js and with
// js/socket.mjs.
func TestAPI(t *testing.T) {
	t.Parallel()
	for name, module := range map[string]string{"phoenix": "phoenix", "socket": socketModule} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			each(t, "api", func(t *testing.T, suite, transport string) {
				t.Helper()
				runVersion(t, suite, transport, module)
			})
		})
	}
}

// TestAPITable checks that the table in js/README.md has a row for each scenario, and no others.
func TestAPITable(t *testing.T) {
	t.Parallel()
	scenarios := map[string]bool{}
	for _, file := range []string{"client/api.mjs", "client/api_presence.mjs"} {
		for _, m := range regexp.MustCompile(`(?m)^scenario\("([^"]+)"`).FindAllStringSubmatch(read(t, file), -1) {
			scenarios[m[1]] = true
		}
	}
	_, table, _ := strings.Cut(read(t, "../../js/README.md"), "\n### API\n")
	table, _, _ = strings.Cut(table, "\n## ")
	rows := map[string]bool{}
	row := regexp.MustCompile("(?m)^\\| `([^`]+)` \\|")
	for _, m := range row.FindAllStringSubmatch(table, -1) {
		rows[m[1]] = true
		if !scenarios[m[1]] {
			t.Errorf("the row %q has no scenario", m[1])
		}
	}
	for name := range scenarios {
		if !rows[name] {
			t.Errorf("the scenario %q has no row", name)
		}
	}
	if len(rows) < 50 {
		t.Errorf("the table has only %d rows", len(rows))
	}
}

func read(t *testing.T, file string) string {
	t.Helper()
	text, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	return string(text)
}
