use safekit::config::*;
use safekit::driver::datapath::*;
use safekit::types::*;
use std::time::Duration;
#[test]
fn loads() {
    let config = Config { cluster: Cluster { name: "t".into(), key_file: "/x".into(), networks: vec![], nodes: vec![Node{name:"a".into(),addresses:vec![]}], timing: Timing{interval: Duration::from_millis(25), timeout: Duration::from_millis(200), lease: Duration::from_millis(100)} }, modules: vec![Module::Farm(Farm{name:"www".into(), nodes: vec![NodeId(0)], virtual_ips: vec![VirtualIp{address:"10.99.0.100".parse().unwrap(), interface:"eth0".into()}], delivery: Delivery::Flood, rules: vec![Rule{protocol:Protocol::Tcp, port:80, balance: Balance::Connection}]})] };
    let plan = Plan::of(&config, NodeId(0), [7;16]).unwrap();
    let d = Datapath::load_for_test(&plan, 1, [2,0,0,0,0,1]);
    match d { Ok(d) => println!("ok {:?}", d.lease_clock()), Err(e) => { let mut e: &dyn std::error::Error = &e; loop { println!("{e}"); match e.source() { Some(s) => e = s, None => break } } panic!() } }
}
