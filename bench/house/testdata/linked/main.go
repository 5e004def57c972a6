// Command linked links a package of tests, for the rule that finds it.
package main

import "testing"

func main() { testing.Init() }
