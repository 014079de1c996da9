package js_test

import (
	"fmt"
	"net/http"
	"net/http/httptest"

	"bennu.example/js"
)

func ExampleHandler() {
	mux := http.NewServeMux()
	mux.Handle("/js/", js.Handler())

	w := httptest.NewRecorder()
	mux.ServeHTTP(w, httptest.NewRequest(http.MethodGet, "/js/socket.mjs", nil))
	fmt.Println(w.Code, w.Header().Get("Content-Type"))
	// Output: 200 text/javascript; charset=utf-8
}
