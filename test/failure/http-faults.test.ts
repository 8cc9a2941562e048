import { testShortForm } from '../support/failure-run.ts'

testShortForm('http-faults')
