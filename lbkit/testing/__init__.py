"""What tests of lbkit, of plug-ins and of programs that use lbkit need; never imported by the rest of lbkit."""
